"""Does a frontend, or a route before other servers, answer; and does it know of anybody to send requests to?"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dynamo._core.errors import CannotConnect
from dynamo.cli._doctor_finding import Finding, fail, ok, warn
from dynamo.cli._doctor_http import Answer, get
from dynamo.cli._doctor_router import check_router
from dynamo.cli._doctor_settings import is_listening

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
CHECK = "frontend"
#: So many instances that are passed over are named.
NAMED_MAX = 3


class _Degraded(msgspec.Struct):
    reason: str = ""
    seconds: float = 0.0


class _Backend(msgspec.Struct):
    url: str
    status: str
    why: str = ""


class _Health(msgspec.Struct):
    """What `/health` says, of a frontend or of a route."""

    status: str
    models: list[str]
    instances: dict[str, list[str]] = {}
    degraded: _Degraded | None = None
    passed_over: list[str] = []
    backends: list[_Backend] | None = None


async def check_default_frontend(port: int = DEFAULT_PORT) -> list[Finding]:
    """Look at a frontend where one is if nobody says otherwise; if nobody listens there, nothing is wrong."""
    url = f"http://{DEFAULT_HOST}:{port}"
    if not await is_listening(DEFAULT_HOST, port):
        return [ok(CHECK, f"nobody listens at {url}; name one that is elsewhere with --url")]
    health = await _health_or_none(url)
    if health is None:
        what = f"something else than a frontend listens at {url}"
        return [warn(CHECK, what, "start frontends with another --http-port, and name them with --url")]
    return [*_of_health(url, health), *await check_router(url, health.models)]


async def _health_or_none(url: str) -> _Health | None:
    try:
        return _health_of(await get(url, "/health"))
    except CannotConnect:
        return None  # it takes connections, and does not speak HTTP


async def check_frontend(url: str) -> list[Finding]:
    """Look at the frontend that somebody has named."""
    answer = await get(url, "/health")
    health = _health_of(answer)
    if health is None:
        what = f"{url}/health answers {answer.status}, and not as a frontend does"
        return [fail(CHECK, what, "give the URL of a frontend, or of `dynamo route`, with nothing behind the port")]
    return [*_of_health(url, health), *await check_router(url, health.models)]


def _health_of(answer: Answer) -> _Health | None:
    try:
        return msgspec.json.decode(answer.body, type=_Health)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _of_health(url: str, health: _Health) -> Iterator[Finding]:
    models = ", ".join(health.models)
    if health.status == "draining":
        yield warn(CHECK, f"{url} is ending, and takes no requests", "wait for the next one, or start it")
    elif health.status == "no_models":
        remedy = (
            "start a worker, with the same DYN_DISCOVERY as the frontend; if one runs, the frontend may look in "
            "another namespace (--namespace), or the `python -m dynamo.router` before the workers may be gone, or the "
            "log of the frontend says why it is not taken"
        )
        yield fail(CHECK, f"{url} answers, and has no model", remedy)
    elif health.status == "no_backends":
        yield fail(CHECK, f"{url} answers, and none of its backends does", "start them, or name others with --backend")
    elif health.degraded is not None:
        what = f"{url} serves {models}, and its discovery has been away for {health.degraded.seconds:.0f} s"
        yield warn(CHECK, f"{what}: {health.degraded.reason}", "see to the servers of discovery")
    else:
        yield ok(CHECK, f"{url} is {health.status}, and serves {models or 'no model'}")
    for backend in health.backends or ():
        if backend.status != "well":
            yield warn(CHECK, f"backend {backend.url}: {backend.why or backend.status}", "see whether it runs")
    if health.passed_over:
        named = ", ".join(health.passed_over[:NAMED_MAX])
        what = f"{len(health.passed_over)} instances were at fault lately, and are passed over: {named}"
        yield warn(CHECK, what, "see their logs; they are asked again by and by")
