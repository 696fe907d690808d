"""Asking a frontend by HTTP: which URLs are one, and by which way it is asked."""

from __future__ import annotations

import http.client
import urllib.request
from urllib.parse import urlsplit

from dynamo._core._shown_url import without_password
from dynamo._core.errors import ConfigError
from dynamo._core.loopback import is_loopback


def check_url(url: str) -> str:
    """Return the URL of a frontend as paths are put behind it. Raises `ConfigError` for what is none."""
    shown = without_password(url)
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # which refuses a name that nobody can look up
        is_one = parts.scheme in ("http", "https") and bool(host) and (parts.port or 1) > 0
    except ValueError:
        is_one = False
    if not is_one or not _is_plain(parts.path):
        raise ConfigError(f"{shown!r} is not a URL like http://127.0.0.1:8000", setting="url")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ConfigError(
            f"{shown!r} has more than a frontend's URL: leave out a name and a password, and what follows ? or #",
            setting="url",
        )
    return url.rstrip("/")


def open_url(url: str, timeout_s: float) -> http.client.HTTPResponse:
    """Ask for a URL; the answer is to be closed.

    Elsewhere it is asked through the proxy that the environment names: there may be no other way. No proxy reaches
    what is on this machine.
    """
    near = is_loopback(urlsplit(url).hostname or "")
    proxies = [urllib.request.ProxyHandler({})] if near else []
    answer = urllib.request.build_opener(*proxies).open(url, timeout=timeout_s)
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def _is_plain(path: str) -> bool:
    return path.isascii() and path.isprintable() and " " not in path
