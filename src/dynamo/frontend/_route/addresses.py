"""What a person writes of the servers behind a route: their URLs, and where they publish their KV events."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from dynamo._core.errors import ConfigError

BACKENDS_MAX = 1024
NO_EVENTS = "none"

_BIND = "bind"
_EVENT_SCHEMES = ("tcp", "ipc")


@dataclass(frozen=True, slots=True)
class EventsAddress:
    """Where an engine publishes its KV events."""

    endpoint: str
    #: Where it says again what was lost.
    replay_endpoint: str | None = None
    #: Whether it connects, and we are who binds: what vLLM does for an address without `*`.
    bind: bool = False


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """A server that speaks the OpenAI API."""

    #: Without `/v1` and without a slash at its end.
    url: str
    events: EventsAddress | None = None


def read_addresses(backends: str, kv_events: str | None) -> tuple[BackendAddress, ...]:
    """Read URLs with spaces between them, and the addresses of their events in the same order.

    Raises `ConfigError` for what is none.
    """
    urls = [_read_url(text) for text in backends.split()]
    if not urls:
        raise ConfigError("--backend is empty: give the URL of a server, http://HOST:PORT", setting="backend")
    if len(urls) > BACKENDS_MAX:
        raise ConfigError(f"--backend: {len(urls)} servers; {BACKENDS_MAX} are allowed", setting="backend")
    for url in urls:
        if urls.count(url) > 1:
            raise ConfigError(f"--backend {url} is given twice", setting="backend")
    if kv_events is None:
        return tuple(BackendAddress(url) for url in urls)
    events = [_read_events(text) for text in kv_events.split()]
    if len(events) != len(urls):
        raise ConfigError(
            f"--backend-kv-events is given {len(events)} times and --backend {len(urls)} times: give it once for each "
            f"backend, in the same order, as tcp://HOST:PORT[,REPLAY_ENDPOINT][,bind], or {NO_EVENTS} for one "
            "without events",
            setting="backend_kv_events",
        )
    return tuple(BackendAddress(url, one) for url, one in zip(urls, events, strict=True))


def _read_url(text: str) -> str:
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise _bad_url(text, "it is written http://HOST:PORT, or https://")
    if parts.username is not None or parts.password is not None:
        # Not repeated: it is a secret.
        raise _bad_url(f"{parts.scheme}://...@{parts.hostname}", "leave the credentials out: clients send their own")
    if parts.query or parts.fragment:
        raise _bad_url(text, "it ends with the path")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # checks it
    except ValueError:
        return None
    return None if parts.port == 0 else parts


def _bad_url(text: str, why: str) -> ConfigError:
    return ConfigError(f"--backend {text!r} is no URL of a server: {why}", setting="backend")


def _read_events(text: str) -> EventsAddress | None:
    if text == NO_EVENTS:
        return None
    endpoint, *more = text.split(",")
    bind = _BIND in more
    replays = [one for one in more if one != _BIND]
    if len(replays) > 1:
        raise _bad_events(text, "there is one endpoint for replays at most")
    for one in (endpoint, *replays):
        _check_events(one, text)
    return EventsAddress(endpoint, replays[0] if replays else None, bind)


def _check_events(endpoint: str, text: str) -> None:
    parts = _split(endpoint)
    if parts is None or parts.scheme not in _EVENT_SCHEMES:
        raise _bad_events(text, "an endpoint is written tcp://HOST:PORT or ipc://PATH")
    if parts.scheme == "tcp" and (not parts.hostname or parts.port is None or parts.path):
        raise _bad_events(text, "an endpoint of TCP is written tcp://HOST:PORT")


def _bad_events(text: str, why: str) -> ConfigError:
    return ConfigError(f"--backend-kv-events {text!r} is no address of KV events: {why}", setting="backend_kv_events")
