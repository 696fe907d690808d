"""The engine: vLLM's, which runs in processes of its own, behind our seam.

What is true here: a request that is closed or stopped is told to vLLM at once, and whatever ends the engine ends its
requests with `EngineShutdown`, so that they go on elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, EngineShutdown, InvalidArgument, Overloaded
from dynamo._core.stability import beta
from dynamo.llm._messages import EngineOutput, PreprocessedRequest
from dynamo.vllm._answer import Answer
from dynamo.vllm._core import Core
from dynamo.vllm._sampling import sampling_arguments

#: Requests that wait for a place, per place; more are refused as `Overloaded`.
WAITING_PER_SEQ_MAX = 32

log = logging.getLogger(__name__)


@beta(since="0.1", constructor=False)
class VllmEngine:
    """Serves one model with vLLM. Made by `start_vllm`; ended by `close`, or by the end of vLLM's processes.

    `belongings` is closed with it, before vLLM is.
    """

    def __init__(self, core: Core, belongings: AsyncExitStack | None = None) -> None:
        self._core = core
        self._belongings = belongings or AsyncExitStack()
        facts = core.facts
        self._num_requests_max = facts.max_num_seqs * facts.data_parallel_size * (1 + WAITING_PER_SEQ_MAX)
        self._numbers = itertools.count()
        # The mutable state: vLLM's names of the requests that run, and why there are no more.
        self._running: set[str] = set()
        self._failure: Callable[[], EngineShutdown] | None = None
        self._ended = asyncio.Event()
        self._aborting: set[asyncio.Task[None]] = set()
        self._watch = asyncio.get_running_loop().create_task(self._end_with_core(), name="watch vLLM")

    @property
    def max_context_length(self) -> int:
        """Tokens that a prompt and its output may have together."""
        return self._core.facts.max_context_length

    @property
    def capabilities(self) -> list[str]:
        """What requests may ask for."""
        return ["logprobs", "seed", "penalties", "cache_salt"]

    @property
    def kv_cache_block_size(self) -> int:
        """Tokens in one block."""
        return self._core.facts.block_size

    @property
    def runtime_config(self) -> dict[str, object]:
        """What its model card tells routers."""
        facts = self._core.facts
        return {
            "total_kv_blocks": facts.num_blocks,
            "max_num_seqs": facts.max_num_seqs,
            "max_num_batched_tokens": facts.max_num_batched_tokens,
            "data_parallel_size": facts.data_parallel_size,
            "kv_events": bool(facts.kv_events),
        }

    @property
    def num_requests(self) -> int:
        """How many run or wait."""
        return len(self._running)

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Yield the request's tokens as they come. The first and the last output have the usage.

        Raises `InvalidArgument` for a request that it cannot serve, `Overloaded` if too many wait already, and
        `EngineShutdown` when it is closed, or vLLM's processes are gone.
        """
        if self._failure is not None:
            raise self._failure()
        if request.lora_name:
            raise InvalidArgument(
                f"this worker has no LoRA adapters, and so not {request.lora_name!r}", param="lora_name"
            )
        facts = self._core.facts
        sampling = sampling_arguments(request, vocab_size=facts.vocab_size, defaults=facts.sampling_defaults)
        answer = Answer(request)
        if context.is_stopped():
            yield answer.cancelled()
            return
        request_id = self._admit(context)
        stop = partial(self._abort, request_id)
        context.stopped_token.add_callback(stop)
        try:
            produced = self._core.generate(
                list(request.token_ids), sampling, request_id, request.dp_rank, request.cache_salt
            )
            async with aclosing(produced):
                async for item in produced:
                    if item.finish_reason == "abort" and self._failure is not None:
                        raise self._failure()
                    yield answer.output(item, is_stopped=context.is_stopped())
        finally:
            context.stopped_token.remove_callback(stop)
            self._running.discard(request_id)

    async def ended(self) -> EngineShutdown:
        """Wait until the engine takes no more requests, and return why."""
        await self._ended.wait()
        assert self._failure is not None
        return self._failure()

    async def close(self) -> None:
        """Requests that run or wait fail with `EngineShutdown`. A second call changes nothing."""
        self._fail(partial(EngineShutdown, "the engine was closed before the request was done"))
        self._watch.cancel()
        for request_id in tuple(self._running):
            self._abort(request_id)
        if self._aborting:
            await asyncio.wait(self._aborting)
        try:
            await self._belongings.aclose()
        finally:
            await self._core.close()

    def _admit(self, context: Context) -> str:
        """Count a request, and return vLLM's name for it: a context may have several of them."""
        if len(self._running) >= self._num_requests_max:
            raise Overloaded(
                f"the engine has {len(self._running)} requests already, which is its limit: try again later"
            )
        request_id = f"{context.request_id}-{next(self._numbers)}"
        self._running.add(request_id)
        return request_id

    def _abort(self, request_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._abort_in_core(request_id), name=f"abort {request_id}")
        self._aborting.add(task)
        task.add_done_callback(self._aborting.discard)

    async def _abort_in_core(self, request_id: str) -> None:
        try:
            await self._core.abort(request_id)
        except DynamoError as error:
            # Whoever reads the request is told of what is wrong with the engine.
            log.debug("vLLM could not be told to end %s: %s", request_id, error)

    async def _end_with_core(self) -> None:
        await self._core.ended()
        self._fail(partial(EngineShutdown, "vLLM's processes are gone; its log says why"))

    def _fail(self, failure: Callable[[], EngineShutdown]) -> None:
        """Take no more requests."""
        if self._failure is None:
            self._failure = failure
            self._ended.set()
