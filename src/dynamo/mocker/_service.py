"""The simulated worker as a base class for services of an SDK graph."""

from __future__ import annotations

import asyncio
import math
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
from dynamo.mocker._config import (
    BLOCK_SIZE,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    NUM_GPU_BLOCKS,
    MockerConfig,
    check_setting,
)
from dynamo.mocker._metrics import MockerMetrics
from dynamo.mocker._starting import kv_publishers, start_mocker
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_context, dynamo_endpoint


@beta(since="0.1")
class MockerWorker:
    """Serves a model with a simulated engine:

    @service(dynamo={"namespace": "demo"})
    class Worker(MockerWorker): ...

    The parameters of the constructor come from the service's section of the configuration. Those of `MockerConfig`
    mean what they mean there, such as `max_num_seqs`, how many requests run at a time, and `stream_interval`, how many
    tokens an answer has at a time. The worker is ready after `startup_time_s` seconds.

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
        block_size: int = BLOCK_SIZE,
        num_gpu_blocks: int = NUM_GPU_BLOCKS,
        max_num_seqs: int = MAX_NUM_SEQS,
        max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
        enable_prefix_caching: bool = True,
        kv_events: bool = True,
        enable_chunked_prefill: bool = True,
        speedup_ratio: float = 1.0,
        decode_speedup_ratio: float = 1.0,
        dp_size: int = 1,
        stream_interval: int = 1,
        startup_time_s: float = 0.0,
        context_length: int | None = None,
        migration_limit: int = MIGRATION_LIMIT,
        taints: str | Sequence[str] = (),
        device_weight: float | None = None,
        on_conflict: str = REFUSE,
    ) -> None:
        self.model_path = model_path
        self.model_name = model_name
        # The context length that counts is the model's; here it is one that every setting allows.
        self.config: MockerConfig = MockerConfig(
            block_size=block_size,
            num_gpu_blocks=num_gpu_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_context_length=1,
            enable_prefix_caching=enable_prefix_caching,
            enable_chunked_prefill=enable_chunked_prefill,
            speedup_ratio=speedup_ratio,
            decode_speedup_ratio=decode_speedup_ratio,
            dp_size=dp_size,
            stream_interval=stream_interval,
        )
        check_setting("startup_time_s", startup_time_s, 0, math.inf)
        self.kv_events = kv_events
        self.startup_time_s = startup_time_s
        self.context_length = context_length
        self.migration_limit = migration_limit
        self.labels: dict[str, object] = worker_labels(taints, device_weight)
        self.on_conflict: str = check_on_conflict(on_conflict)
        self._model: ServedModel | None = None

    @async_on_start
    async def start_engine(self) -> None:
        """Make the engine, and tell the frontends about the model."""
        path = await fetch_llm(self.model_path, ignore_weights=True)
        await asyncio.sleep(self.startup_time_s)
        endpoint = next(one for one in dynamo_context["endpoints"] if one.id.endpoint == "generate")
        sinks = kv_publishers(endpoint, self.config) if self.kv_events else []
        engine = await start_mocker(path, self.config, context_length=self.context_length, kv_event_sinks=sinks)
        name = self.model_name or default_model_name(self.model_path)
        metrics = MockerMetrics(name)
        metrics.add(endpoint.lease_id(), engine)
        endpoint.runtime.exposition.add(metrics)
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
