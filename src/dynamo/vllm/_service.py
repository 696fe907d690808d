"""The vLLM worker as a base class for services of an SDK graph."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from dynamo._core.context import Context
from dynamo._core.stability import beta
from dynamo.llm import EngineOutput
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._model_card import MIGRATION_LIMIT
from dynamo.llm._served_model import ServedModel
from dynamo.llm._worker_labels import worker_labels
from dynamo.llm._worker_options import REFUSE, check_on_conflict
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_context, dynamo_endpoint
from dynamo.vllm._starting import start_vllm


@beta(since="0.1")
class VllmWorker:
    """Serves a model with vLLM:

    @service(dynamo={"namespace": "demo"}, resources={"gpu": 1})
    class Worker(VllmWorker): ...

    The parameters of the constructor come from the service's section of the configuration. `engine_arguments` are
    vLLM's own, as for `vllm serve`: `["--enforce-eager", "--max-num-seqs", "64"]`.

    `context_length` (without one, the model's) is how many tokens a prompt and its answer may have together,
    `migration_limit` how often a request may move on when its worker is lost, and `device_weight` (without one, 1) the
    worker's share of the requests where the router mode is device-aware-weighted. `taints` are labels that requests may
    require or prefer. Where other workers of the model differ from this one, it does not start; with `on_conflict`
    "wait" it does, and gets no requests until they are gone. Raises `ConfigError` for settings that make no sense.
    """

    def __init__(
        self,
        model_path: str,
        model_name: str | None = None,
        context_length: int | None = None,
        engine_arguments: Sequence[str] = (),
        migration_limit: int = MIGRATION_LIMIT,
        taints: str | Sequence[str] = (),
        device_weight: float | None = None,
        on_conflict: str = REFUSE,
    ) -> None:
        self.model_path = model_path
        self.model_name = model_name
        self.context_length = context_length
        self.engine_arguments: list[str] = list(engine_arguments)
        self.migration_limit = migration_limit
        self.labels: dict[str, object] = worker_labels(taints, device_weight)
        self.on_conflict: str = check_on_conflict(on_conflict)
        self._model: ServedModel | None = None

    @async_on_start
    async def start_engine(self) -> None:
        """Start vLLM, and tell the frontends about the model."""
        path = await fetch_llm(self.model_path)
        endpoint = next(one for one in dynamo_context["endpoints"] if one.id.endpoint == "generate")
        name = self.model_name or default_model_name(self.model_path)
        engine = await start_vllm(
            path,
            endpoint,
            model_name=name,
            context_length=self.context_length,
            engine_arguments=self.engine_arguments,
        )
        self._model = await ServedModel.start(
            engine,
            endpoint,
            path,
            name,
            migration_limit=self.migration_limit,
            labels=self.labels,
            on_conflict=self.on_conflict,
        )

    @dynamo_endpoint()
    async def generate(self, request: object, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Token ids in, token ids out."""
        assert self._model is not None
        async with aclosing(self._model.generate(request, context)) as outputs:
            async for output in outputs:
                yield output

    @async_on_shutdown
    async def close_engine(self) -> None:
        """Take the model back, and end the engine."""
        if self._model is not None:
            await self._model.close()
