"""The transformers worker as a base class for services of an SDK graph."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from dynamo._core.context import Context
from dynamo._core.stability import stable
from dynamo.llm import EngineOutput, KvPublisher
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, MIGRATION_LIMIT
from dynamo.llm._served_model import ServedModel
from dynamo.llm._worker_labels import worker_labels
from dynamo.llm._worker_options import REFUSE, check_on_conflict
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_context, dynamo_endpoint
from dynamo.transformers._engine import MAX_NUM_SEQS, TransformersEngine
from dynamo.transformers._stats import EngineMetrics


@stable(since="0.1")
class TransformersWorker:
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
        self.model_path = model_path
        self.model_name = model_name
        self.device = device
        self.dtype = dtype
        self.max_num_seqs = max_num_seqs
        self.context_length = context_length
        self.num_threads = num_threads
        self.seed = seed
        self.enable_prefix_caching = enable_prefix_caching
        self.num_kv_blocks = num_kv_blocks
        self.kv_cache_block_size = kv_cache_block_size
        self.kv_events = kv_events
        self.migration_limit = migration_limit
        self.labels: dict[str, object] = worker_labels(taints, device_weight)
        self.on_conflict: str = check_on_conflict(on_conflict)
        self._model: ServedModel | None = None

    @async_on_start
    async def start_engine(self) -> None:
        """Load the model, and tell the frontends about it."""
        path = await fetch_llm(self.model_path)
        endpoint = next(one for one in dynamo_context["endpoints"] if one.id.endpoint == "generate")
        tells = self.enable_prefix_caching and self.kv_events
        sink = KvPublisher(endpoint, kv_block_size=self.kv_cache_block_size) if tells else None
        engine = await TransformersEngine.start(
            str(path),
            device=self.device,
            dtype=self.dtype,
            max_num_seqs=self.max_num_seqs,
            max_context_length=self.context_length,
            num_threads=self.num_threads,
            seed=self.seed,
            enable_prefix_caching=self.enable_prefix_caching,
            num_kv_blocks=self.num_kv_blocks,
            kv_cache_block_size=self.kv_cache_block_size,
            kv_event_sink=sink,
        )
        name = self.model_name or default_model_name(self.model_path)
        endpoint.runtime.exposition.add(EngineMetrics(engine, name, endpoint.lease_id()))
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
