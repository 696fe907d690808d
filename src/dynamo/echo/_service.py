"""The echo worker as a base class for services of an SDK graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynamo._core.stability import stable
from dynamo._engines.service import EngineService
from dynamo.echo._engine import MAX_NUM_SEQS, EchoEngine
from dynamo.llm._model_card import MIGRATION_LIMIT, ModelCard
from dynamo.llm._worker_options import REFUSE
from dynamo.runtime import Endpoint


@stable(since="0.1")
class EchoWorker(EngineService):
    """Serves a model that answers with its prompt:

    @service(dynamo={"namespace": "demo"})
    class Worker(EchoWorker): ...

    The parameters of the constructor come from the service's section of the configuration. `token_delay_s` is
    how many seconds there are between tokens, and `max_num_seqs` how many requests run at a time.

    `context_length` (without one, the model's) is how many tokens a prompt and its answer may have together,
    `migration_limit` how often a request may move on when its worker is lost, and `device_weight` (without one, 1) the
    worker's share of the requests where the router mode is device-aware-weighted. `taints` are labels that requests may
    require or prefer. Where other workers of the model differ from this one, it does not start; with `on_conflict`
    "wait" it does, and gets no requests until they are gone. Raises `ConfigError` for settings that make no sense.
    """

    _needs_weights = False

    def __init__(
        self,
        model_path: str,
        model_name: str | None = None,
        token_delay_s: float = 0.0,
        max_num_seqs: int = MAX_NUM_SEQS,
        context_length: int | None = None,
        migration_limit: int = MIGRATION_LIMIT,
        taints: str | Sequence[str] = (),
        device_weight: float | None = None,
        on_conflict: str = REFUSE,
    ) -> None:
        super().__init__(model_path, model_name, context_length, migration_limit, taints, device_weight, on_conflict)
        self.token_delay_s = token_delay_s
        self.max_num_seqs = max_num_seqs

    async def _make_engine(self, path: Path, endpoint: Endpoint, name: str) -> EchoEngine:
        card = ModelCard.from_local_path(path, context_length=self.context_length)
        return EchoEngine(
            delay_s=self.token_delay_s, max_num_seqs=self.max_num_seqs, max_context_length=card.context_length
        )
