"""The event plane, opened by a URL: `inproc:`, `zmq://HOST` or `nats://HOST:4222`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dynamo._core._nats_url import nats_url_from_env
from dynamo._core._shown_url import without_password
from dynamo._core.discovery import Discovery
from dynamo._core.errors import ConfigError
from dynamo._core.event_plane.base import Event, EventPlane, EventStats, Gap, Subscription

__all__ = [
    "Event",
    "EventPlane",
    "EventStats",
    "Gap",
    "Subscription",
    "check_event_plane_url",
    "event_plane_url_from_env",
    "open_event_plane",
]

#: The variable that says it, unless an argument does.
SETTING = "DYN_EVENT_PLANE"
_SCHEMES = {"inproc", "zmq", "nats", "tls"}


async def open_event_plane(
    url: str, discovery: Discovery, environ: Mapping[str, str] = os.environ, *, setting: str = SETTING
) -> EventPlane:
    """Return the plane that `url` names, connected; publishers are in `discovery`, credentials in `environ`.

    Raises `ConfigError`, about `setting`, for a URL that we don't know or whose package is missing, and
    `CannotConnect` if a server does not answer, in less than two seconds.
    """
    check_event_plane_url(url, setting)
    scheme = url.partition(":")[0]
    try:
        if scheme == "zmq":
            from dynamo._core.credentials import cluster_token
            from dynamo._core.event_plane.zmq import ZmqEventPlane

            return ZmqEventPlane.from_url(url, discovery, cluster_token(environ), setting=setting)
        if scheme in ("nats", "tls"):
            from dynamo._core.event_plane.nats import NatsEventPlane

            return await NatsEventPlane.connect(url, environ, setting=setting)
    except ImportError as error:
        package = "pyzmq" if scheme == "zmq" else "dynamo-serve[nats]"
        raise ConfigError(f"{setting}={without_password(url)!r} needs {error.name}: install {package}") from error
    from dynamo._core.event_plane.inproc import InprocEventPlane

    return InprocEventPlane()


def check_event_plane_url(url: str, setting: str = SETTING) -> None:
    """Raise `ConfigError`, about `setting`, unless `url` names a kind of event plane that there is."""
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in _SCHEMES:
        raise ConfigError(
            f"{setting}={without_password(url)!r} names no known event plane; there are inproc:, zmq: and nats://"
        )


def event_plane_url_from_env(environ: Mapping[str, str], given: str | None = None) -> str:
    """Return the URL that is given, or that the environment asks for; `zmq:`, which needs no server, otherwise.

    `DYN_EVENT_PLANE` says what is not given: a URL, or just `zmq` or `nats`. Where NATS is, `NATS_SERVER` may say,
    and if nothing else is said, that means to use it.
    """
    url = environ.get(SETTING) or ("nats" if environ.get("NATS_SERVER") else "zmq:")
    if given is not None:
        url = given
    if url == "nats":
        return nats_url_from_env(environ)
    return "zmq:" if url == "zmq" else url
