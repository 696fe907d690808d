"""The routes of the system server. Every answer is computed when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dynamo.runtime._health import Verdict
from dynamo.runtime._system_metrics import build_registry

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

_NO_STORE = {"cache-control": "no-store"}


def build_system_app(runtime: DistributedRuntime) -> Starlette:
    """Return the application that answers for a runtime."""
    registry = build_registry(runtime)

    async def live(request: Request) -> Response:
        verdict = await runtime.health.is_live()
        return _answer(verdict, {"status": "live" if verdict.is_good else "notlive"})

    async def health(request: Request) -> Response:
        verdict = await runtime.health.is_ready()
        seconds = runtime.uptime_s()
        uptime = {"secs": int(seconds), "nanos": int(seconds % 1 * 1e9)}
        status = "ready" if verdict.is_good else "notready"
        states = {name: "ready" if is_open else "notready" for name, is_open in runtime.health.endpoints().items()}
        return _answer(verdict, {"status": status, "uptime": uptime, "endpoints": states})

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type} | _NO_STORE)

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
