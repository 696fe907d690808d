"""The request plane, opened by a URL: `inproc:` or `tcp://HOST:PORT`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dynamo._core.errors import ConfigError
from dynamo._core.request_plane._stats import PlaneStats
from dynamo._core.request_plane.base import UNSENDABLE, Address, Handler, Listener, RequestPlane, ResponseStream

__all__ = [
    "UNSENDABLE",
    "Address",
    "Handler",
    "Listener",
    "PlaneStats",
    "RequestPlane",
    "ResponseStream",
    "open_request_plane",
]

#: The variable that says it, unless an argument does.
SETTING = "DYN_REQUEST_PLANE"


def open_request_plane(url: str, environ: Mapping[str, str] = os.environ, *, setting: str = SETTING) -> RequestPlane:
    """Return the plane that `url` names, with the credentials in the environment.

    Raises `ConfigError`, about `setting`, for a plane that we don't know, and for credentials that make no sense.
    """
    scheme = url.partition(":")[0]
    if scheme == "tcp":
        from dynamo._core.request_plane.tcp import TcpPlane

        return TcpPlane.from_url(url, environ, setting=setting)
    if scheme == "inproc":
        from dynamo._core.request_plane.inproc import InprocPlane

        return InprocPlane()
    raise ConfigError(f"{setting}={url!r}: unknown scheme {scheme!r}; there are inproc: and tcp:")
