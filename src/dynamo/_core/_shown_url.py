"""URLs as they may be shown: without a name and a password, also where they stand in a wrong place."""

from __future__ import annotations

import re

# A password may contain what parts a URL, and a URL that is wrong may lack its slashes.
_PARTS = re.compile(r"(\w+://)?(.*@)?(.*)", re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:]*)(:[0-9]{0,5})?([/?#].*)?", re.DOTALL)


def without_password(url: str) -> str:
    """Return a URL, or several separated by commas, for people to read.

    What stands before the last @ is hidden; and what follows a name like a port and is none: who forgets the host has
    a password there.
    """
    match = _PARTS.fullmatch(url)
    assert match is not None, "it matches everything"
    scheme, proof, hosts = match.groups()
    return (scheme or "") + ("***@" if proof else "") + ",".join(map(_without_password, hosts.split(",")))


def _without_password(host: str) -> str:
    if "://" in host:
        scheme, _, rest = host.partition("://")
        return f"{scheme}://{_without_password(rest)}" if scheme.isalnum() else "***"
    return host if _HOST.fullmatch(host) else f"{host.partition(':')[0]}:***"
