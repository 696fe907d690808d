"""`python -m dynamo.mocker`: workers that behave as if they had a model."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # until it listens, Ctrl-C ends it as SIGTERM does: without a traceback of what follows
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dynamo._core.errors import ConfigError
from dynamo._core.exit_status import USAGE
from dynamo.llm._fetch import default_model_name
from dynamo.llm._worker import StartEngineAt, run_engine_workers
from dynamo.llm._worker_options import WorkerOptions
from dynamo.mocker._config import (
    BLOCK_SIZE,
    DP_SIZE_MAX,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    NUM_GPU_BLOCKS,
    MockerConfig,
)
from dynamo.mocker._engine import MockerEngine
from dynamo.mocker._metrics import MockerMetrics
from dynamo.mocker._starting import start_mocker_at
from dynamo.runtime import Endpoint
from dynamo.runtime._process import failed
from dynamo.runtime._settings import option, read_settings

NUM_WORKERS_MAX = 1024


@dataclass(frozen=True, kw_only=True)
class MockerOptions(WorkerOptions):
    """The options of simulated workers."""

    block_size: int = option(BLOCK_SIZE, "tokens in a block of the KV cache", least=1)
    num_gpu_blocks: int = option(NUM_GPU_BLOCKS, "blocks of the KV cache, at each rank", least=1)
    max_num_seqs: int = option(MAX_NUM_SEQS, "requests that run at a time, at each rank; more wait", least=1)
    max_num_batched_tokens: int = option(MAX_NUM_BATCHED_TOKENS, "tokens that one step computes", least=1)
    enable_prefix_caching: bool = option(True, "find the blocks that a prompt has in common with one before it")
    kv_events: bool = option(True, "tell routers which blocks are in the KV cache")
    enable_chunked_prefill: bool = option(True, "compute a long prompt in several steps")
    speedup_ratio: float = option(1.0, "so many times faster than the engine that is simulated; 0: no waiting", least=0)
    decode_speedup_ratio: float = option(
        1.0, "so many times faster at decoding, beside the other ratio; 0: no waiting for that", least=0
    )
    dp_size: int = option(1, "data parallel ranks of each worker", least=1, most=DP_SIZE_MAX)
    stream_interval: int = option(1, "tokens in each output but the first", least=1)
    startup_time_s: float = option(0.0, "pause before a worker takes requests, as if it loaded a model", least=0)
    num_workers: int = option(1, "workers in this process", least=1, most=NUM_WORKERS_MAX)

    def config(self) -> MockerConfig:
        """Return the engine's settings. Raises `ConfigError` if they contradict each other."""
        return MockerConfig(
            block_size=self.block_size,
            num_gpu_blocks=self.num_gpu_blocks,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            # The one that counts is the model's, which is not read yet.
            max_context_length=self.context_length or 1,
            enable_prefix_caching=self.enable_prefix_caching,
            enable_chunked_prefill=self.enable_chunked_prefill,
            speedup_ratio=self.speedup_ratio,
            decode_speedup_ratio=self.decode_speedup_ratio,
            dp_size=self.dp_size,
            stream_interval=self.stream_interval,
        )


def main(arguments: list[str]) -> int:
    """Run the workers; return the exit status."""
    try:
        options = read_settings(
            MockerOptions,
            arguments,
            os.environ,
            prog="python -m dynamo.mocker",
            description="Serve a model with simulated engines. Needs the tokenizer, not the weights.",
        )
        start = start_engine(options)
    except ConfigError as error:
        return failed(error, USAGE)
    return run_engine_workers(options, start, needs_weights=False, num_workers=options.num_workers)


def start_engine(options: MockerOptions) -> StartEngineAt:
    """Return what makes the engines that the options describe. Raises `ConfigError` if they contradict each other."""
    config = options.config()
    metrics = MockerMetrics(options.model_name or default_model_name(options.model_path))

    async def start(path: Path, endpoint: Endpoint) -> MockerEngine:
        return await start_mocker_at(
            endpoint,
            path,
            config,
            metrics,
            context_length=options.context_length,
            kv_events=options.kv_events,
            startup_time_s=options.startup_time_s,
        )

    return start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
