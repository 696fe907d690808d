"""The HTTP application of `dynamo route`: what is passed on, and what is answered here."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dynamo._core.errors import NotFound
from dynamo.frontend._active import ActiveRequests
from dynamo.frontend._common_app import CommonApp, error_response
from dynamo.frontend._route.attempts import Attempts
from dynamo.frontend._route.backends import Backend, Backends
from dynamo.frontend._route.pass_route import PassRoute
from dynamo.frontend._route.prompts import CHAT, COMPLETIONS, Prompts
from dynamo.frontend._route.router import BackendRouter
from dynamo.runtime._exposition import Expose

#: What goes to a server, and comes back as it answers.
PASSED_ON = (CHAT, COMPLETIONS, "/tokenize", "/detokenize")


class RouteApp(CommonApp):
    """Stands in front of servers."""

    def __init__(
        self,
        backends: Backends,
        router: BackendRouter,
        prompts: Prompts,
        attempts: Attempts,
        active: ActiveRequests,
        *,
        body_size_bytes_max: int,
        expose: Expose,
    ) -> None:
        super().__init__(
            {
                path: PassRoute(path, active, router, prompts, attempts, body_size_bytes_max=body_size_bytes_max)
                for path in PASSED_ON
            },
            active,
            router,
            expose,
        )
        self._backends = backends
        self._router = router

    async def _list_models(self, _: Request) -> Response:
        """What the servers list, as they were last asked; each model once."""
        return JSONResponse({"object": "list", "data": list(self._backends.models().values())})

    async def _show_model(self, request: Request) -> Response:
        name = str(request.path_params["model"])
        about = self._backends.models().get(name)
        if about is None:
            return error_response(
                NotFound(f"no backend lists the model {name[:128]!r}", code="model_not_found", param="model")
            )
        return JSONResponse(about)

    async def _health(self, _: Request) -> Response:
        """Ready means that a server answers; without one it says what is wrong with each."""
        num_well = sum(one.is_well for one in self._backends)
        well = "healthy" if num_well == len(self._backends) else "degraded"
        status = "draining" if self.active.draining else well if num_well else "no_backends"
        now = asyncio.get_running_loop().time()
        body = {
            "status": status,
            "models": list(self._backends.models()),
            "backends": [self._shown(one, now) for one in self._backends],
            "active_requests": len(self.active),
        }
        return JSONResponse(body, status_code=200 if status == well else 503)

    def _shown(self, backend: Backend, now: float) -> dict[str, object]:
        state = "well" if backend.is_well else "passed_over" if backend.is_known else "unknown"
        shown: dict[str, object] = {"id": backend.id, "url": backend.url, "status": state}
        if backend.why_out:
            shown["why"] = backend.why_out
        if backend.rests_until > now:
            shown["rests_s"] = round(backend.rests_until - now, 1)
        shown |= {"models": sorted(backend.models or ()), "active_requests": backend.num_active}
        if backend.address.events is not None and self._router.events is not None:
            # None: nothing was heard of it, and what was sent there counts.
            shown["kv_blocks"] = self._router.events.num_blocks(backend.id)
        return shown
