"""The echo engine: answers with the tokens of the prompt, one per output, at a speed of your choice.

The end of the prompt ends the answer. Tokens that a model would end with do not: a prompt made by a
chat template is full of them. A request that ignores the end of sequence, or wants more tokens than
the prompt has, gets the prompt over and over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, EngineShutdown, InvalidArgument, Overloaded
from dynamo._core.stability import beta
from dynamo.llm._engine_request import completion_usage, num_prompt_tokens
from dynamo.llm._messages import EngineOutput, FinishReason, PreprocessedRequest

MAX_NUM_SEQS = 4096
MAX_CONTEXT_LENGTH = 131072
#: Requests that wait for a place, per place; more are refused as `Overloaded`.
WAITING_PER_SEQ_MAX = 32


@beta(since="0.1")
class EchoEngine:
    """Says the prompt back, `delay_s` (seconds) between tokens.

    With a delay of 0 it still lets the loop turn once per token, as an engine with a model would. At most
    `max_num_seqs` requests run at a time, and 32 times as many wait. `max_context_length` is how many tokens a prompt
    and its answer may have together. Raises `ConfigError` for a delay below 0, or no place for any request.
    """

    def __init__(
        self, *, delay_s: float = 0.0, max_num_seqs: int = MAX_NUM_SEQS, max_context_length: int = MAX_CONTEXT_LENGTH
    ) -> None:
        if not delay_s >= 0:
            raise ConfigError(f"delay_s={delay_s} must be 0 or more")
        if max_num_seqs < 1:
            raise ConfigError(f"max_num_seqs={max_num_seqs} must be 1 or more")
        self.max_context_length = max_context_length
        self._delay_s = delay_s
        self._max_num_seqs = max_num_seqs
        self._closed = asyncio.Event()
        self._num_running = 0
        # Who waits for a place, in order: True gives it, False says that the request was stopped.
        self._queue: deque[asyncio.Future[bool]] = deque()

    @property
    def capabilities(self) -> list[str]:
        """What requests may ask for: equal ones get equal answers, and nothing is kept that tenants could share."""
        return ["seed", "cache_salt"]

    @property
    def num_requests_running(self) -> int:
        """Requests that are being answered now."""
        return self._num_running

    @property
    def num_requests_waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(not place.done() for place in self._queue)

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Yield the prompt's tokens. The last output has the reason and the usage.

        Raises `InvalidArgument` for a request that it cannot answer, `Overloaded` if too many wait already, and
        `EngineShutdown` when it is closed.
        """
        stop, max_tokens = request.stop_conditions, self._max_tokens(request)
        # What another worker has said of the answer already is after the prompt.
        prompt, begin = request.token_ids[: num_prompt_tokens(request)], request.num_resumed_tokens
        # Where the answer ends if nothing ends it before.
        end = begin + max_tokens
        if not stop.ignore_eos:
            end = min(end, max(len(prompt), begin + stop.min_tokens))
        if not await self._enter(context):
            yield _last([], "cancelled", len(prompt), 0)
            return
        try:
            token_ids: list[int] = []
            for index in range(begin, end):
                await asyncio.sleep(self._delay_s)
                if self._closed.is_set():
                    raise EngineShutdown("the engine was closed before the request was done")
                if context.is_stopped():
                    yield _last([], "cancelled", len(prompt), index)
                    return
                token_ids = [prompt[index % len(prompt)]]
                if token_ids[0] in stop.stop_token_ids and index + 1 - begin >= stop.min_tokens:
                    yield _last(token_ids, "stop", len(prompt), index + 1)
                    return
                if index + 1 < end:
                    yield EngineOutput(token_ids=token_ids)
            yield _last(token_ids, "length" if end == begin + max_tokens else "stop", len(prompt), end)
        finally:
            self._leave()

    async def ended(self) -> EngineShutdown:
        """Wait until the engine takes no more requests, and return why."""
        await self._closed.wait()
        return EngineShutdown("the engine is closed")

    async def close(self) -> None:
        """Requests that run or wait fail with `EngineShutdown`. A second call changes nothing."""
        self._closed.set()
        for place in self._queue:
            if not place.done():
                place.set_exception(EngineShutdown("the engine was closed before the request began"))

    def _max_tokens(self, request: PreprocessedRequest) -> int:
        """Check a request, and return how many tokens it gets at most."""
        if self._closed.is_set():
            raise EngineShutdown("the engine is closed")
        if not num_prompt_tokens(request):
            raise InvalidArgument("the prompt is empty")
        room = self.max_context_length - len(request.token_ids)
        if room < 1:
            raise InvalidArgument(
                f"the prompt has {len(request.token_ids)} tokens, and the context {self.max_context_length}: shorten it"
            )
        wanted = request.stop_conditions.max_tokens
        if wanted is not None and wanted < 1:
            raise InvalidArgument(f"max_tokens={wanted} must be 1 or more")
        return room if wanted is None else min(wanted, room)

    async def _enter(self, context: Context) -> bool:
        """Wait for a place; False: the request was stopped before it had one."""
        if self._num_running < self._max_num_seqs:
            self._num_running += 1
            return True
        if len(self._queue) >= WAITING_PER_SEQ_MAX * self._max_num_seqs:
            raise Overloaded(f"{len(self._queue)} requests wait for the engine already: try again later")
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def give_up() -> None:
            _settle(place, False)

        self._queue.append(place)
        context.stopped_token.add_callback(give_up)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None and place.result():
                self._leave()
            raise
        finally:
            context.stopped_token.remove_callback(give_up)
            if place in self._queue:
                self._queue.remove(place)

    def _leave(self) -> None:
        """Give the place to the next who still waits."""
        while self._queue:
            if _settle(self._queue.popleft(), True):
                return
        self._num_running -= 1


def _settle(place: asyncio.Future[bool], result: bool) -> bool:
    if place.done():
        return False
    place.set_result(result)
    return True


def _last(token_ids: list[int], reason: FinishReason, num_prompt: int, num_tokens: int) -> EngineOutput:
    usage = completion_usage(num_prompt, num_tokens)
    return EngineOutput(token_ids=token_ids, finish_reason=reason, completion_usage=usage)
