"""The transformers worker as a base class for services of an SDK graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynamo._core.stability import stable
from dynamo._engines.service import EngineService
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, MIGRATION_LIMIT
from dynamo.llm._worker import WorkerEngine
from dynamo.llm._worker_options import REFUSE
from dynamo.runtime import Endpoint
from dynamo.transformers.__main__ import TransformersOptions, start_engine_at
from dynamo.transformers._engine import MAX_NUM_SEQS


@stable(since="0.1")
class TransformersWorker(EngineService):
    """Serves a causal language model of the transformers library:

    @service(dynamo={"namespace": "demo"}, resources={"gpu": 1})
    class Worker(TransformersWorker): ...

    The parameters of the constructor come from the service's section of the configuration. `device`, `dtype`,
    `max_num_seqs`, `num_threads`, `seed` and `num_kv_blocks` are those of `TransformersEngine`.

    `context_length` (without one, the model's) is how many tokens a prompt and its answer may have together,
    `migration_limit` how often a request may move on when its worker is lost, and `device_weight` (without one, 1) the
    worker's share of the requests where the router mode is device-aware-weighted. `taints` are labels that requests may
    require or prefer. Where other workers of the model differ from this one, it does not start; with `on_conflict`
    "wait" it does, and gets no requests until they are gone. Raises `ConfigError` for settings that make no sense, as
    soon as the engine is made.
    """

    def __init__(
        self,
        model_path: str,
        model_name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_num_seqs: int = MAX_NUM_SEQS,
        context_length: int | None = None,
        num_threads: int | None = None,
        seed: int | None = None,
        enable_prefix_caching: bool = True,
        num_kv_blocks: int | None = None,
        kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE,
        kv_events: bool = True,
        migration_limit: int = MIGRATION_LIMIT,
        taints: str | Sequence[str] = (),
        device_weight: float | None = None,
        on_conflict: str = REFUSE,
    ) -> None:
        super().__init__(model_path, model_name, context_length, migration_limit, taints, device_weight, on_conflict)
        self.device = device
        self.dtype = dtype
        self.max_num_seqs = max_num_seqs
        self.num_threads = num_threads
        self.seed = seed
        self.enable_prefix_caching = enable_prefix_caching
        self.num_kv_blocks = num_kv_blocks
        self.kv_cache_block_size = kv_cache_block_size
        self.kv_events = kv_events

    async def _make_engine(self, path: Path, endpoint: Endpoint, name: str) -> WorkerEngine:
        options = TransformersOptions(
            model_path=self.model_path,
            model_name=name,
            device=self.device,
            dtype=self.dtype,
            max_num_seqs=self.max_num_seqs,
            context_length=self.context_length,
            num_threads=self.num_threads,
            seed=self.seed,
            enable_prefix_caching=self.enable_prefix_caching,
            num_kv_blocks=self.num_kv_blocks,
            kv_cache_block_size=self.kv_cache_block_size,
            kv_events=self.kv_events,
        )
        return await start_engine_at(options)(path, endpoint)
