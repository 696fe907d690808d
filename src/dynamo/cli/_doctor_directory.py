"""A directory of discovery that nobody has used yet: it is told of, and not made, as whoever looks in it would."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import unquote

from dynamo._core.discovery import default_url
from dynamo._core.discovery._files import WORK, make_private_directory
from dynamo.cli._doctor_finding import Finding, ok, warn


def look_at_unused(url: str, environ: Mapping[str, str]) -> Finding | None:
    """Say what is to be said of a `file:` discovery where nothing is; None if it is in use, or of another kind.

    Raises `ConfigError` for a directory that cannot be used.
    """
    if not url.startswith("file:"):
        return None
    directory = unquote(url.removeprefix("file://"))
    if _may_be_there(os.path.join(directory, WORK)):
        return None
    if _may_be_there(directory):
        make_private_directory(directory)  # there is nothing to make: it sees who may write there
        return ok("discovery", f"{url} is there, and nobody has used it yet")
    if url == default_url(environ, make_directory=False):
        return ok("discovery", f"{url} is not there yet: whoever starts first makes it")
    what = f"{url} is not there, so nobody has registered anything in it"
    return warn("discovery", what, "see whether its name is right; if it is, whoever starts first makes it")


def _may_be_there(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # who is kept from it is told so by discovery
    return True
