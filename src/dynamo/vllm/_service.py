"""The vLLM worker as a base class for services of an SDK graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynamo._core.stability import beta
from dynamo._engines.service import EngineService
from dynamo.llm._model_card import MIGRATION_LIMIT
from dynamo.llm._worker_options import REFUSE
from dynamo.runtime import Endpoint
from dynamo.vllm._engine import VllmEngine
from dynamo.vllm._starting import start_vllm


@beta(since="0.1")
class VllmWorker(EngineService):
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
        super().__init__(model_path, model_name, context_length, migration_limit, taints, device_weight, on_conflict)
        self.engine_arguments: list[str] = list(engine_arguments)

    async def _make_engine(self, path: Path, endpoint: Endpoint, name: str) -> VllmEngine:
        return await start_vllm(
            path,
            endpoint,
            model_name=name,
            context_length=self.context_length,
            engine_arguments=self.engine_arguments,
        )
