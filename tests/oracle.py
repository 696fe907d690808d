"""An engine whose every token is known beforehand: the oracle of the tests that break things.

The token at position `i` is a hash of the sampling parameters and of every token before it, those of the
prompt included: `tokens(prompt, count, sampling)` says what must come. So a worker that is given the prompt
and the first `k` tokens of the answer goes on with token `k`, and one token that was lost, doubled, taken
from elsewhere or put in another place changes all that follow. An answer ends with `max_tokens` and nothing
else, since no token here is one that ends an answer.

`OracleEngine` gives one token per output and `delay_s`, and can come to grief once it has given
`fault_after_tokens` tokens in all: `die` (the process is gone, with no word to anybody), `hang` (the loop
lives, and no token comes any more), `block` (the loop stands still) or `close` (the engine ends as an engine
does). A prompt with the token `poison_token` kills whoever reads it.

`python -m tests.oracle --model-path DIR --token-delay-s 0.01 --fault die --fault-after-tokens 100` is a worker
of such an engine, with all the options that every worker has. While the file of `--slow-while` is there, it answers so
slowly that no answer ends before what is to happen to it has happened.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, EngineShutdown, InvalidArgument
from dynamo._core.exit_status import USAGE
from dynamo.llm import EngineOutput, PreprocessedRequest, SamplingOptions
from dynamo.llm._model_card import ModelCard
from dynamo.llm._worker import StartEngine, run_engine_worker
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime._settings import option, read_settings

#: The token ids of an answer: those of the tiny model without its special tokens.
FIRST_TOKEN_ID = 8
VOCABULARY = 2040
MAX_CONTEXT_LENGTH = 4096
#: The status of a process that died of a fault, as that of one that was killed.
DEAD = 137
#: The pause before each token of an engine that was told to be slow.
SLOW_DELAY_S = 0.1
#: Longer than anybody waits.
FOREVER_S = 3600.0
FAULTS = ("none", "die", "hang", "block", "close")


class Sequel:
    """What comes after some tokens, one token at a time."""

    def __init__(self, token_ids: Sequence[int], sampling: SamplingOptions | None = None) -> None:
        sampling = sampling or SamplingOptions()
        key = repr((sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed))
        self._seen = hashlib.blake2b(key.encode(), digest_size=8)
        self._seen.update(struct.pack(f"<{len(token_ids)}I", *token_ids))

    def next(self) -> int:
        """Return the next token, and take it as seen."""
        token_id = FIRST_TOKEN_ID + int.from_bytes(self._seen.digest(), "little") % VOCABULARY
        self._seen.update(struct.pack("<I", token_id))
        return token_id


def tokens(prompt: Sequence[int], count: int, sampling: SamplingOptions | None = None) -> list[int]:
    """Return the first `count` tokens of the answer to a prompt."""
    sequel = Sequel(prompt, sampling)
    return [sequel.next() for _ in range(count)]


def log_prob(token_id: int) -> float:
    """Return the log probability that the engine reports of a token."""
    return -token_id / 64


class OracleEngine:
    """Gives the tokens that `tokens` says."""

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        slow_while: Path | None = None,
        fault: str = "none",
        fault_after_tokens: int = 0,
        poison_token: int | None = None,
        max_context_length: int = MAX_CONTEXT_LENGTH,
        die: Callable[[], None] = lambda: os._exit(DEAD),
    ) -> None:
        if fault not in FAULTS:
            raise ConfigError(f"fault={fault!r} is none of {', '.join(FAULTS)}")
        self.max_context_length = max_context_length
        #: The requests that came, in order.
        self.requests: list[PreprocessedRequest] = []
        #: How many tokens were given in all.
        self.num_tokens = 0
        self.num_requests_running = 0
        self._delay_s = delay_s
        self._slow_while = slow_while
        self._fault = fault
        self._fault_after_tokens = fault_after_tokens
        self._poison_token = poison_token
        self._die = die
        self._closed = asyncio.Event()

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Yield one token per output, until there are `max_tokens`."""
        self.requests.append(request)
        self.num_requests_running += 1
        try:
            if self._poison_token in request.token_ids:
                await self._come_to_grief("die")
            sequel = Sequel(request.token_ids, request.sampling_options)
            max_tokens = self._max_tokens(request)
            for index in range(max_tokens):
                await asyncio.sleep(self._pause_s())
                if self._fault != "none" and self.num_tokens >= self._fault_after_tokens:
                    await self._come_to_grief(self._fault)
                if self._closed.is_set():
                    raise EngineShutdown("the engine was closed before the request was done")
                if context.is_stopped():
                    yield EngineOutput(finish_reason="cancelled")
                    return
                self.num_tokens += 1
                yield _output(sequel.next(), request, is_last=index + 1 == max_tokens)
        finally:
            self.num_requests_running -= 1

    async def ended(self) -> EngineShutdown:
        """Wait until the engine takes no more requests, and return why."""
        await self._closed.wait()
        return EngineShutdown("the engine is closed")

    async def close(self) -> None:
        """Requests that run fail with `EngineShutdown`. A second call changes nothing."""
        self._closed.set()

    def _pause_s(self) -> float:
        is_slow = self._slow_while is not None and self._slow_while.exists()
        return SLOW_DELAY_S if is_slow else self._delay_s

    async def _come_to_grief(self, fault: str) -> None:
        match fault:
            case "die":
                self._die()
                await asyncio.Event().wait()  # where a test lets only the instance die, and not the process
            case "hang":
                await asyncio.Event().wait()
            case "block":
                time.sleep(FOREVER_S)  # noqa: ASYNC251
            case "close":
                await self.close()

    def _max_tokens(self, request: PreprocessedRequest) -> int:
        room = self.max_context_length - len(request.token_ids)
        max_tokens = request.stop_conditions.max_tokens
        if not request.token_ids or room < 1 or (max_tokens is not None and not 1 <= max_tokens <= room):
            raise InvalidArgument(
                f"{len(request.token_ids)} tokens in the prompt and {max_tokens} to come do not make "
                f"{self.max_context_length}"
            )
        return room if max_tokens is None else max_tokens


def _output(token_id: int, request: PreprocessedRequest, *, is_last: bool) -> EngineOutput:
    return EngineOutput(
        token_ids=[token_id],
        finish_reason="length" if is_last else None,
        log_probs=None if request.output_options.logprobs is None else [log_prob(token_id)],
    )


@dataclass(frozen=True, kw_only=True)
class OracleOptions(WorkerOptions):
    """The options of a worker of the oracle."""

    token_delay_s: float = option(0.0, "pause before each token", least=0)
    slow_while: str | None = option(None, f"while this file exists, the pause is {SLOW_DELAY_S} s")
    fault: str = option("none", "what it comes to", choices=FAULTS)
    fault_after_tokens: int = option(0, "after how many tokens in all it does", least=0)
    poison_token: int | None = option(None, "a token of a prompt that kills the worker", least=0)


def main(arguments: list[str]) -> int:
    """Run the worker; return its exit status."""
    try:
        options = read_settings(
            OracleOptions, arguments, os.environ, prog="python -m tests.oracle", description="Serve the oracle."
        )
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE
    return run_engine_worker(options, start_engine(options), needs_weights=False)


def start_engine(options: OracleOptions) -> StartEngine:
    """Return what makes the engine that the options describe."""

    async def start(path: Path) -> OracleEngine:
        return OracleEngine(
            delay_s=options.token_delay_s,
            slow_while=None if options.slow_while is None else Path(options.slow_while),
            fault=options.fault,
            fault_after_tokens=options.fault_after_tokens,
            poison_token=options.poison_token,
            max_context_length=ModelCard.from_local_path(path, context_length=options.context_length).context_length,
        )

    return start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
