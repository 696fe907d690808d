"""The simulated worker as a base class for services of an SDK graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dynamo._core.stability import beta
from dynamo._engines.service import EngineService
from dynamo.llm._model_card import MIGRATION_LIMIT
from dynamo.llm._worker_options import REFUSE
from dynamo.mocker._config import (
    BLOCK_SIZE,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    NUM_GPU_BLOCKS,
    MockerConfig,
    check_setting,
)
from dynamo.mocker._engine import MockerEngine
from dynamo.mocker._metrics import MockerMetrics
from dynamo.mocker._starting import start_mocker_at
from dynamo.runtime import Endpoint


@beta(since="0.1")
class MockerWorker(EngineService):
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

    _needs_weights = False

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
        super().__init__(model_path, model_name, context_length, migration_limit, taints, device_weight, on_conflict)
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

    async def _make_engine(self, path: Path, endpoint: Endpoint, name: str) -> MockerEngine:
        return await start_mocker_at(
            endpoint,
            path,
            self.config,
            MockerMetrics(name),
            context_length=self.context_length,
            kv_events=self.kv_events,
            startup_time_s=self.startup_time_s,
        )
