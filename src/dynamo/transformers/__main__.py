"""`python -m dynamo.transformers`: a worker for any causal language model of the transformers library."""

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
from dynamo.llm import KvPublisher
from dynamo.llm._fetch import default_model_name
from dynamo.llm._kv_events import KvEventSink
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE
from dynamo.llm._worker import StartEngine, StartEngineAt, run_engine_workers
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime import Endpoint
from dynamo.runtime._process import failed
from dynamo.runtime._settings import option, read_settings
from dynamo.transformers._engine import MAX_NUM_SEQS, TransformersEngine
from dynamo.transformers._stats import EngineMetrics

#: The model's thread and the event loop take turns this often. With Python's 5 ms, each call of the
#: model that lets go of the interpreter would wait that long for it while tokens are sent.
SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, kw_only=True)
class TransformersOptions(WorkerOptions):
    """The options of a transformers worker."""

    device: str = option("auto", "where the model runs: cuda, cuda:1, mps, cpu; auto takes the first there is")
    dtype: str = option(
        "auto", "numbers to compute with; auto: as in the files", choices=("auto", "float32", "bfloat16", "float16")
    )
    max_num_seqs: int = option(MAX_NUM_SEQS, "requests that run at a time; more wait", least=1)
    num_threads: int | None = option(None, "threads of a model on the CPU; without it, all cores but one", least=1)
    seed: int | None = option(None, "makes requests without a seed reproducible, if they come in the same order")
    enable_prefix_caching: bool = option(True, "keep what was computed, for requests that begin in the same way")
    num_kv_blocks: int | None = option(
        None, "blocks to keep it in; without it, what a quarter of the memory for keys and values holds", least=1
    )
    kv_cache_block_size: int = option(KV_CACHE_BLOCK_SIZE, "tokens in a block", least=1)
    kv_events: bool = option(True, "tell routers which blocks there are")


def main(arguments: list[str]) -> int:
    """Run the worker; return its exit status."""
    try:
        options = read_settings(
            TransformersOptions,
            arguments,
            os.environ,
            prog="python -m dynamo.transformers",
            description="Serve a causal language model with Hugging Face transformers, on CPU or GPU.",
        )
    except ConfigError as error:
        return failed(error, USAGE)
    return run_engine_workers(options, start_engine_at(options))


def start_engine(options: TransformersOptions) -> StartEngine:
    """Return what makes the engine that the options describe."""

    async def start(path: Path) -> TransformersEngine:
        return await _start(options, path)

    return start


def start_engine_at(options: TransformersOptions) -> StartEngineAt:
    """Return what makes it for an endpoint: routers hear of its blocks, and the process's metrics tell of it."""

    async def start(path: Path, endpoint: Endpoint) -> TransformersEngine:
        engine = await _start(options, path, _sink(options, endpoint))
        name = options.model_name or default_model_name(options.model_path)
        endpoint.runtime.exposition.add(EngineMetrics(engine, name, endpoint.lease_id()))
        return engine

    return start


def _sink(options: TransformersOptions, endpoint: Endpoint) -> KvEventSink | None:
    if not (options.enable_prefix_caching and options.kv_events):
        return None
    return KvPublisher(endpoint, kv_block_size=options.kv_cache_block_size)


async def _start(
    options: TransformersOptions, path: Path, kv_event_sink: KvEventSink | None = None
) -> TransformersEngine:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return await TransformersEngine.start(
        str(path),
        device=options.device,
        dtype=options.dtype,
        max_num_seqs=options.max_num_seqs,
        max_context_length=options.context_length,
        num_threads=options.num_threads,
        seed=options.seed,
        enable_prefix_caching=options.enable_prefix_caching,
        num_kv_blocks=options.num_kv_blocks,
        kv_cache_block_size=options.kv_cache_block_size,
        kv_event_sink=kv_event_sink,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
