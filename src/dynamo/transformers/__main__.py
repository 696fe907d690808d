"""`python -m dynamo.transformers`: a worker for any causal language model of the transformers library."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamo._core.errors import ConfigError
from dynamo.llm._worker import StartEngine, run_engine_worker
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime._settings import USAGE, option, read_settings
from dynamo.transformers._engine import MAX_NUM_SEQS, TransformersEngine

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
        sys.stderr.write(f"error: {error}\n")
        return USAGE
    return run_engine_worker(options, start_engine(options))


def start_engine(options: TransformersOptions) -> StartEngine:
    """Return what makes the engine that the options describe."""

    async def start(path: Path) -> TransformersEngine:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        return await TransformersEngine.start(
            str(path),
            device=options.device,
            dtype=options.dtype,
            max_num_seqs=options.max_num_seqs,
            max_context_length=options.context_length,
            num_threads=options.num_threads,
            seed=options.seed,
        )

    return start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
