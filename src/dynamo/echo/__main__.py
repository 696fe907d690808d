"""`python -m dynamo.echo`: a worker that says prompts back."""

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
from dynamo.echo._engine import MAX_NUM_SEQS, EchoEngine
from dynamo.llm._model_card import ModelCard
from dynamo.llm._worker import StartEngine, run_engine_worker
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime._process import failed
from dynamo.runtime._settings import option, read_settings


@dataclass(frozen=True, kw_only=True)
class EchoOptions(WorkerOptions):
    """The options of an echo worker."""

    token_delay_s: float | None = option(None, "pause before each token", least=0)
    tokens_per_second: float | None = option(None, "speed of one answer, instead of a pause", least=0.001)
    max_num_seqs: int = option(MAX_NUM_SEQS, "requests that run at a time; more wait", least=1)

    @property
    def delay_s(self) -> float:
        """The pause before each token."""
        if self.tokens_per_second is None:
            return self.token_delay_s or 0.0
        if self.token_delay_s is not None:
            raise ConfigError("--token-delay-s and --tokens-per-second say the same thing: give one of them")
        return 1 / self.tokens_per_second


def main(arguments: list[str]) -> int:
    """Run the worker; return its exit status."""
    try:
        options = read_settings(
            EchoOptions,
            arguments,
            os.environ,
            prog="python -m dynamo.echo",
            description="Serve a model that answers with its prompt. Needs the tokenizer, not the weights.",
        )
        start = start_engine(options)
    except ConfigError as error:
        return failed(error, USAGE)
    return run_engine_worker(options, start, needs_weights=False)


def start_engine(options: EchoOptions) -> StartEngine:
    """Return what makes the engine that the options describe. Raises `ConfigError` if they contradict each other."""
    delay_s = options.delay_s

    async def start(path: Path) -> EchoEngine:
        return EchoEngine(
            delay_s=delay_s,
            max_num_seqs=options.max_num_seqs,
            max_context_length=ModelCard.from_local_path(path, context_length=options.context_length).context_length,
        )

    return start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
