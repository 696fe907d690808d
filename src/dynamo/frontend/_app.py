"""The HTTP application of a frontend: its models, and whether it could answer now."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dynamo._core.discovery import DiscoveryStatus
from dynamo._core.errors import DynamoError
from dynamo.frontend._active import ActiveRequests
from dynamo.frontend._common_app import CommonApp, error_response
from dynamo.frontend._openai_routes import GenerateRoute, Models
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest
from dynamo.runtime._exposition import Expose

BODY_SIZE_BYTES_MAX = 32 << 20
REQUEST_TIMEOUT_S = 600.0

REQUESTS: Mapping[str, type[OpenAIRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}


class FrontendApp(CommonApp):
    """Serves models."""

    def __init__(
        self,
        models: Models,
        active: ActiveRequests,
        *,
        body_size_bytes_max: int,
        discovery: DiscoveryStatus,
        expose: Expose | None,
    ) -> None:
        super().__init__(
            {
                path: GenerateRoute(kind, models, active, body_size_bytes_max=body_size_bytes_max)
                for path, kind in REQUESTS.items()
            },
            active,
            models,
            expose,
        )
        self._discovery = discovery
        self._models = models

    async def _list_models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self._models.names()]})

    async def _show_model(self, request: Request) -> Response:
        name = str(request.path_params["model"])
        try:
            self._models.pipeline(name)
        except DynamoError as error:
            return error_response(error)
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, object]:
        model: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": self._models.created_s(name),
            "owned_by": "dynamo",
        }
        if user_data := self._models.user_data(name):
            model["user_data"] = user_data
        return model

    async def _health(self, _: Request) -> Response:
        """Ready means that a request could be answered now; a discovery that is away changes nothing in that.

        Nor do instances that are passed over, be it all of them: only requests find out whether they answer again.
        """
        models = self._models.names()
        degradation = self._discovery.degradation()
        well = "degraded" if degradation else "healthy"
        status = "draining" if self.active.draining else well if models else "no_models"
        body: dict[str, object] = {
            "status": status,
            "models": models,
            "instances": self._models.instances(),
            "active_requests": len(self.active),
        }
        if degradation:
            body["degraded"] = degradation
        if passed_over := self._models.passed_over():
            body["passed_over"] = passed_over
        return JSONResponse(body, status_code=200 if status == well else 503)


def create_app(
    models: Models,
    *,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    body_size_bytes_max: int = BODY_SIZE_BYTES_MAX,
    discovery: DiscoveryStatus | None = None,
    expose: Expose | None = None,
) -> FrontendApp:
    """Return the application that serves `models`, which `discovery` tells of, and the metrics that `expose` gives.

    Call it inside a running event loop.
    """
    return FrontendApp(
        models,
        ActiveRequests(timeout_s=request_timeout_s),
        body_size_bytes_max=body_size_bytes_max,
        discovery=discovery or DiscoveryStatus(),
        expose=expose,
    )
