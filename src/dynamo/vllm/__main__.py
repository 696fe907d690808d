"""`python -m dynamo.vllm`: a worker that runs vLLM's engine."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # until it listens, Ctrl-C ends it as SIGTERM does: without a traceback of what follows
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dynamo._core.errors import ConfigError
from dynamo._core.exit_status import OK, USAGE
from dynamo.llm._fetch import default_model_name
from dynamo.llm._worker import StartEngineAt, run_engine_workers
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime import Endpoint
from dynamo.runtime._process import failed
from dynamo.runtime._settings import read_settings
from dynamo.vllm._arguments import split_arguments
from dynamo.vllm._engine import VllmEngine
from dynamo.vllm._starting import show_engine_help, start_vllm

DESCRIPTION = (
    "Serve a model with vLLM. Options that are not among these are those of vLLM's engine, such as --max-num-seqs 64 "
    "or --enforce-eager: python -m dynamo.vllm -- --help shows them. What comes after -- is for vLLM in any case."
)


@dataclass(frozen=True, kw_only=True)
class VllmOptions(WorkerOptions):
    """The options of a vLLM worker; those of the engine are vLLM's own."""


def main(arguments: list[str]) -> int:
    """Run the worker; return its exit status."""
    ours, engines = split_arguments(arguments, VllmOptions)
    try:
        if not ours and engines in (["--help"], ["-h"]):
            show_engine_help()
            return OK
        options = read_settings(VllmOptions, ours, os.environ, prog="python -m dynamo.vllm", description=DESCRIPTION)
    except ConfigError as error:
        return failed(error, USAGE)
    return run_engine_workers(options, start_engine(options, engines))


def start_engine(options: VllmOptions, engine_arguments: list[str]) -> StartEngineAt:
    """Return what makes the engine that the options describe."""

    async def start(path: Path, endpoint: Endpoint) -> VllmEngine:
        return await start_vllm(
            path,
            endpoint,
            model_name=options.model_name or default_model_name(options.model_path),
            context_length=options.context_length,
            engine_arguments=engine_arguments,
        )

    return start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
