"""The routes of the system server. Every answer is computed when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dynamo.runtime._discovery_health import degradation
from dynamo.runtime._health import Verdict

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

_NO_STORE = {"cache-control": "no-store"}


def build_system_app(runtime: DistributedRuntime) -> Starlette:
    """Return the application that answers for a runtime."""
    expose = runtime.exposition.prepare()

    async def live(request: Request) -> Response:
        verdict = await runtime.health.is_live()
        return _answer(verdict, {"status": "live" if verdict.is_good else "notlive"})

    async def health(request: Request) -> Response:
        verdict = await runtime.health.is_ready()
        seconds = runtime.uptime_s()
        uptime = {"secs": int(seconds), "nanos": int(seconds % 1 * 1e9)}
        states = {name: "ready" if is_open else "notready" for name, is_open in runtime.health.endpoints().items()}
        body: dict[str, object] = {"status": "ready", "uptime": uptime, "endpoints": states}
        if not verdict.is_good:
            body["status"] = "notready"
        elif degraded := degradation(runtime):  # it serves, so it is no reason to send it nothing
            body |= {"status": "degraded", "degraded": degraded}
        return _answer(verdict, body)

    async def metrics(request: Request) -> Response:
        body, content_type = expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type} | _NO_STORE)

    return Starlette(
        routes=[
            Route("/live", live),
            Route("/healthz", live),
            Route("/health", health),
            Route("/readyz", health),
            Route("/metrics", metrics),
        ]
    )


def _answer(verdict: Verdict, body: dict[str, object]) -> Response:
    if verdict.has_failed:
        return PlainTextResponse(verdict.reason + "\n", status_code=500, headers=_NO_STORE)
    if verdict.is_good:
        return JSONResponse(body, headers=_NO_STORE)
    return JSONResponse(body | {"reason": verdict.reason}, status_code=503, headers=_NO_STORE)
