"""Discovery by URL: which implementation, and where.

`memory:` is one process; `file:///some/dir` is the processes of one host; `etcd://host:2379` is all that share
an etcd. Without a setting, the processes of one user on one host find each other in a directory of that
user's own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import quote, unquote

from dynamo._core._shown_url import without_password
from dynamo._core.discovery.base import Change, Delete, Discovery, Lease, Put, Synced
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import ConfigError

__all__ = [
    "Change",
    "Delete",
    "Discovery",
    "DiscoveryStatus",
    "Lease",
    "Put",
    "Synced",
    "default_url",
    "discovery_setting",
    "discovery_url_from_env",
    "open_discovery",
]

_IMPLEMENTATIONS = {
    "memory": "dynamo._core.discovery.memory:MemoryDiscovery",
    "file": "dynamo._core.discovery.file:FileDiscovery",
}
#: The variable that says it, unless an argument does.
SETTING = "DYN_DISCOVERY"
#: Where etcd is if nobody says.
ENDPOINTS_DEFAULT = "http://localhost:2379"
_KNOWN = "there are memory:, file:///some/dir and etcd://host:2379"
# What DYN_DISCOVERY_BACKEND may be, and what DYN_DISCOVERY says instead.
_BACKENDS = {"mem": "memory:", "memory": "memory:", "file": "file:", "etcd": "etcd:"}


def open_discovery(url: str, setting: str = SETTING) -> Discovery:
    """Return the discovery that `url` names. `memory:` is a new, empty one each time.

    `setting` is what named it, a variable or an argument: an error says what is to be changed. Raises `ConfigError`.
    """
    scheme, colon, rest = url.partition(":")
    if scheme in ("etcd", "etcds"):
        from dynamo._core.discovery._etcd_url import open_etcd

        return open_etcd(url, setting=setting)
    target = _IMPLEMENTATIONS.get(scheme) if colon else None
    if target is None:
        shown = without_password(url)
        raise ConfigError(
            f"{setting} is {shown!r}, which names no known discovery: {_KNOWN}", url=shown, setting=setting
        )
    module, _, name = target.partition(":")
    make = cast("Callable[..., Discovery]", getattr(importlib.import_module(module), name))
    if scheme == "file":
        return make(_directory(url, rest, setting), setting=setting)
    if rest not in ("", "//"):
        raise ConfigError(f"{setting} is {url!r}; write memory: and nothing after it", url=url, setting=setting)
    return make()


def discovery_url_from_env(environ: Mapping[str, str], *, make_directory: bool = True) -> str:
    """Return the URL that the environment asks for; the user's own directory, as `default_url`, if it asks for none.

    `DYN_DISCOVERY` decides. Without it the older `DYN_DISCOVERY_BACKEND` (`file`, `mem`, `etcd`),
    `DYN_FILE_KV` (the directory) and `ETCD_ENDPOINTS` are understood.
    """
    if url := environ.get(SETTING):
        return url
    directory = environ.get("DYN_FILE_KV")
    endpoints = environ.get("ETCD_ENDPOINTS")
    backend = environ.get("DYN_DISCOVERY_BACKEND") or ("file" if directory else "etcd" if endpoints else None)
    if backend is not None and backend not in _BACKENDS:
        raise ConfigError(
            f"DYN_DISCOVERY_BACKEND is {backend!r}, but {_KNOWN}; set DYN_DISCOVERY to one of them", backend=backend
        )
    if backend == "etcd":
        from dynamo._core.discovery._etcd_url import url_of_endpoints

        return url_of_endpoints(endpoints or ENDPOINTS_DEFAULT)
    if backend is None or _BACKENDS[backend] == "file:":
        return (
            _file_url(os.path.abspath(directory)) if directory else default_url(environ, make_directory=make_directory)
        )
    return _BACKENDS[backend]


def discovery_setting(environ: Mapping[str, str]) -> str:
    """Return which variable says where discovery is; `DYN_DISCOVERY`, which could, if none does."""
    older = environ.get("DYN_DISCOVERY_BACKEND")
    is_etcd = older == "etcd" or not (older or environ.get("DYN_FILE_KV"))
    if environ.get(SETTING) or not is_etcd:
        return SETTING
    return "ETCD_ENDPOINTS" if environ.get("ETCD_ENDPOINTS") else "DYN_DISCOVERY_BACKEND" if older else SETTING


def default_url(environ: Mapping[str, str] = os.environ, *, make_directory: bool = True) -> str:
    """Return the `file:` URL of the current user's own directory, which is made if it is not there.

    Raises `ConfigError` if the directory belongs to someone else, or others may write to it. Without `make_directory`
    it is not looked at.
    """
    from dynamo._core.discovery._files import make_private_directory

    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if _is_usable(runtime):
        directory = os.path.join(runtime, "dynamo")
    else:
        directory = os.path.join(os.path.abspath(environ.get("TMPDIR") or "/tmp"), f"dynamo-{os.geteuid()}")
    if make_directory:
        make_private_directory(directory)
    return _file_url(directory)


def _is_usable(runtime: str) -> bool:
    """Whether `runtime` is this user's runtime directory: after `su` it is still the other user's."""
    try:
        return (
            os.path.isabs(runtime) and os.stat(runtime).st_uid == os.geteuid() and os.access(runtime, os.W_OK | os.X_OK)
        )
    except OSError:
        return False


def _file_url(directory: str) -> str:
    return f"file://{quote(directory)}"


def _directory(url: str, rest: str, setting: str) -> str:
    directory = unquote(rest.removeprefix("//"))
    if not rest.startswith("//") or not directory.startswith("/") or "\0" in directory:
        raise ConfigError(
            f"{setting} is {url!r}; a directory of this host is meant: file:///some/dir, with three slashes",
            url=url,
            setting=setting,
        )
    return directory
