"""The engine: any causal language model of the transformers library, its requests batched.

One thread owns the model and runs it, pass by pass; the event loop never waits for it. The loop hands
requests over through an inbox and gets all tokens of a pass back in one call. A reader that is slower
than the model gets several tokens in one output; the model does not wait for it.

This module does not import torch; `load` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, DynamoError, EngineShutdown, InvalidArgument, Overloaded
from dynamo._core.stability import beta
from dynamo.llm._engine_request import num_prompt_tokens
from dynamo.llm._kv_events import KvEventSink
from dynamo.llm._messages import EngineOutput, PreprocessedRequest
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE
from dynamo.runtime._daemon_thread import in_daemon_thread
from dynamo.transformers._stats import EngineStats
from dynamo.transformers._stream import OutputStream

if TYPE_CHECKING:
    from dynamo.transformers._loading import LoadedModel
    from dynamo.transformers._row import Row, Step

MAX_NUM_SEQS = 32
#: Requests that wait for a place, per place; more are refused as `Overloaded`.
WAITING_PER_SEQ_MAX = 32
#: How long `close` waits for the pass that runs.
CLOSE_TIMEOUT_S = 60.0

log = logging.getLogger(__name__)


@beta(since="0.1", constructor=False)
class TransformersEngine:
    """Serves one model. Made by `start`, or by `load` in a thread; ended by `close`.

    At most `max_num_seqs` requests run at a time. On a CPU it computes with `num_threads` threads; without
    a number, with all cores but one. Greedy output of a request is what the model gives
    for it alone, up to the rounding of the dtype; so is seeded sampling.

    Unless `enable_prefix_caching` is off, what requests have computed is kept in `num_kv_blocks` blocks of
    `kv_cache_block_size` tokens (without a number, as many as a quarter of the memory for keys and values holds), and
    a request that begins in the same way computes the rest only. `kv_event_sink` hears of every block that is kept or
    goes; it is called in the engine's thread.

    A `max_context_length` is how many tokens a prompt and its output may have together; without one the model says.
    With a `seed` the requests that bring none are drawn in the same way again, and without one differently every time.
    Raises `ConfigError` for settings that make no sense.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_num_seqs: int = MAX_NUM_SEQS,
        num_threads: int | None = None,
        seed: int | None = None,
        enable_prefix_caching: bool = True,
        num_kv_blocks: int | None = None,
        kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE,
        kv_event_sink: KvEventSink | None = None,
    ) -> None:
        from dynamo.transformers._block_budget import num_kv_blocks as num_blocks_of
        from dynamo.transformers._prefix_cache import PrefixCache
        from dynamo.transformers._scheduler import PREFILL_TOKENS_MAX, Scheduler

        if max_num_seqs < 1:
            raise ConfigError(f"max_num_seqs={max_num_seqs} must be 1 or more")
        if num_threads is not None and num_threads < 1:
            raise ConfigError(f"num_threads={num_threads} must be 1 or more")
        self._loaded = loaded
        self._num_threads = num_threads
        self._num_requests_max = max_num_seqs * (1 + WAITING_PER_SEQ_MAX)
        # Seeds for the requests that bring none.
        self._seeds = random.Random(seed)
        self._thread = threading.Thread(target=self._run, name="dynamo-transformers", daemon=True)
        num_blocks = num_blocks_of(loaded, kv_cache_block_size, num_kv_blocks) if enable_prefix_caching else 0
        num_cells = loaded.kv_cells_max - num_blocks * kv_cache_block_size
        self._block_size = kv_cache_block_size
        self._runtime_config: dict[str, object] = {
            # Without a prefix cache, how much the requests that run may have.
            "total_kv_blocks": num_blocks or max(1, num_cells // kv_cache_block_size),
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": PREFILL_TOKENS_MAX,
            "data_parallel_size": 1,
            "kv_events": bool(num_blocks) and kv_event_sink is not None,
        }
        # Only the thread touches these two, but for what is counted.
        self._prefixes = PrefixCache(num_blocks, kv_cache_block_size, kv_event_sink)
        self._scheduler = Scheduler(
            loaded.model, max_num_seqs=max_num_seqs, kv_cells_max=num_cells, prefixes=self._prefixes
        )
        # Shared with the thread, under the lock: what is new, and whether to end.
        self._changed = threading.Condition()
        self._inbox: list[Row] = []
        self._is_closing = False
        # The loop's own: who reads what, and why the engine takes no more.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[Row, OutputStream] = {}
        self._failure: Callable[[], EngineShutdown] | None = None
        self._ended = asyncio.Event()

    @classmethod
    def load(
        cls,
        model_path: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_num_seqs: int = MAX_NUM_SEQS,
        max_context_length: int | None = None,
        num_threads: int | None = None,
        seed: int | None = None,
        enable_prefix_caching: bool = True,
        num_kv_blocks: int | None = None,
        kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE,
        kv_event_sink: KvEventSink | None = None,
    ) -> TransformersEngine:
        """Load a model from a directory or, by its name, from the hub. Blocks until it is ready.

        `device` is as torch calls it, and `dtype` as the library does; with "auto" a GPU is taken if there is one, and
        the type that the model's files have. The rest is as in the class. Raises `ConfigError` if what this engine
        needs is not installed, or for a model that it cannot load.
        """
        try:
            from dynamo.transformers._loading import load_model
        except ImportError as error:
            raise ConfigError(
                f"the transformers engine needs the package {error.name}: pip install 'dynamo-serve[transformers]'"
            ) from error
        loaded = load_model(model_path, device=device, dtype=dtype, max_context_length=max_context_length)
        engine = cls(
            loaded,
            max_num_seqs=max_num_seqs,
            num_threads=num_threads,
            seed=seed,
            enable_prefix_caching=enable_prefix_caching,
            num_kv_blocks=num_kv_blocks,
            kv_cache_block_size=kv_cache_block_size,
            kv_event_sink=kv_event_sink,
        )
        blocks = f"{engine.stats().kv_total_blocks:,} blocks of {kv_cache_block_size}"
        log.info("transformers engine: %s, %s of them in the prefix cache", loaded, blocks)
        return engine

    @classmethod
    async def start(
        cls,
        model_path: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_num_seqs: int = MAX_NUM_SEQS,
        max_context_length: int | None = None,
        num_threads: int | None = None,
        seed: int | None = None,
        enable_prefix_caching: bool = True,
        num_kv_blocks: int | None = None,
        kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE,
        kv_event_sink: KvEventSink | None = None,
    ) -> TransformersEngine:
        """Do what `load` does without holding the event loop."""
        return await in_daemon_thread(
            partial(
                cls.load,
                model_path,
                device=device,
                dtype=dtype,
                max_num_seqs=max_num_seqs,
                max_context_length=max_context_length,
                num_threads=num_threads,
                seed=seed,
                enable_prefix_caching=enable_prefix_caching,
                num_kv_blocks=num_kv_blocks,
                kv_cache_block_size=kv_cache_block_size,
                kv_event_sink=kv_event_sink,
            ),
            name="dynamo-transformers-load",
        )

    @property
    def max_context_length(self) -> int:
        """Tokens that a prompt and its output may have together."""
        return self._loaded.max_context_length

    @property
    def capabilities(self) -> list[str]:
        """What requests may ask for."""
        return ["logprobs", "seed", "penalties", "cache_salt"]

    @property
    def kv_cache_block_size(self) -> int:
        """Tokens in one block of the prefix cache."""
        return self._block_size

    @property
    def runtime_config(self) -> dict[str, object]:
        """What its model card tells routers."""
        return dict(self._runtime_config)

    @property
    def num_requests_running(self) -> int:
        """Requests that are in the batch now."""
        return self._scheduler.num_running

    @property
    def num_requests_waiting(self) -> int:
        """Requests that wait for a place."""
        return self._scheduler.num_waiting + len(self._inbox)

    def stats(self) -> EngineStats:
        """Return how it is now, and what it has done."""
        return EngineStats(
            num_requests_running=self.num_requests_running,
            num_requests_waiting=self.num_requests_waiting,
            kv_cache_usage_perc=self._scheduler.kv_cache_usage,
            kv_total_blocks=self._prefixes.num_blocks,
            kv_cached_blocks=self._prefixes.num_kept,
            **asdict(self._scheduler.counts),
        )

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Yield the request's tokens as they come. The last output has the reason and the usage.

        Raises `InvalidArgument` for a request that it cannot serve, `Overloaded` if too many wait already, and
        `EngineShutdown` when it is closed or has failed.
        """
        row, stream = self._admit(request)
        context.stopped_token.add_callback(stream.stop)
        try:
            while True:
                output = await stream.next()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            context.stopped_token.remove_callback(stream.stop)
            self._drop(row)

    async def ended(self) -> EngineShutdown:
        """Wait until the engine takes no more requests, and return why."""
        await self._ended.wait()
        assert self._failure is not None
        return self._failure()

    async def close(self) -> None:
        """End the thread; requests that run fail with `EngineShutdown`. A second call changes nothing."""
        self._fail(partial(EngineShutdown, "the engine was closed before the request was done"))
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT_S)

    # On the loop.

    def _admit(self, request: PreprocessedRequest) -> tuple[Row, OutputStream]:
        if self._failure is not None:
            raise self._failure()
        row = self._row(request)
        if len(self._streams) >= self._num_requests_max:
            raise Overloaded(
                f"the engine has {len(self._streams)} requests already, which is its limit: try again later"
            )
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()
        stream = self._streams[row] = OutputStream(row.num_prompt_tokens, request.num_resumed_tokens)
        with self._changed:
            self._inbox.append(row)
            self._changed.notify()
        return row, stream

    def _row(self, request: PreprocessedRequest) -> Row:
        """Check a request, and make it what the scheduler works with."""
        from dynamo.transformers._block_pool import BlockChain
        from dynamo.transformers._row import Row
        from dynamo.transformers._sampling import Sampler

        token_ids, stop, num_prompt = request.token_ids, request.stop_conditions, num_prompt_tokens(request)
        room = self.max_context_length - len(token_ids)
        if not num_prompt:
            raise InvalidArgument("the prompt is empty")
        if request.lora_name:
            raise InvalidArgument(
                f"this worker has no LoRA adapters, and so not {request.lora_name!r}", param="lora_name"
            )
        if room < 1:
            raise InvalidArgument(
                f"the prompt has {len(token_ids)} tokens, and the model's context {self.max_context_length}: "
                "shorten it by at least one more than the difference",
            )
        if not 0 <= min(token_ids) <= max(token_ids) < self._loaded.vocab_size:
            raise InvalidArgument(f"token ids must be from 0 to {self._loaded.vocab_size - 1}")
        max_tokens = room if stop.max_tokens is None else min(stop.max_tokens, room)
        if max_tokens < 1:
            raise InvalidArgument(f"max_tokens={stop.max_tokens} must be 1 or more")
        eos = () if stop.ignore_eos else request.eos_token_ids or self._loaded.eos_token_ids
        sampler = Sampler.from_options(
            request.sampling_options,
            self._loaded.defaults,
            self._seeds.getrandbits(64),
            request.output_options.logprobs,
        )
        sampler.resume(token_ids[num_prompt:])
        return Row(
            list(token_ids),
            sampler,
            max_tokens=max_tokens,
            min_tokens=min(stop.min_tokens, max_tokens),
            stop_token_ids=frozenset(
                token for token in (*stop.stop_token_ids, *eos) if 0 <= token < self._loaded.vocab_size
            ),
            chain=BlockChain(request.cache_salt),
        )

    def _drop(self, row: Row) -> None:
        """Forget a request; if it still runs, it leaves before the next pass."""
        del self._streams[row]
        with self._changed:
            row.is_cancelled = True
            self._changed.notify()

    def _deliver(self, steps: Sequence[Step]) -> None:
        for step in steps:
            stream = self._streams.get(step.row)
            if stream is None:
                continue
            if step.choice is None:
                stream.fail(
                    partial(DynamoError, "the model's output for this request was not a number, or no token may come")
                )
            else:
                stream.num_cached_tokens = step.row.num_cached_tokens
                stream.put(step.choice.token_id, step.finish_reason, step.choice.log_prob, step.choice.top)

    def _fail(self, failure: Callable[[], EngineShutdown]) -> None:
        """Take no more requests, and end those that there are."""
        if self._failure is None:
            self._failure = failure
            self._ended.set()
            for stream in self._streams.values():
                stream.fail(failure)

    # In the thread.

    def _run(self) -> None:
        import torch

        # The threads of a CPU pass wait for each other actively, so one that has to share its core with the
        # event loop holds all of them up: one core is left free.
        torch.set_num_threads(self._num_threads or max(1, torch.get_num_threads() - 1))
        try:
            with torch.inference_mode():
                while self._take_inbox():
                    steps = self._scheduler.step()
                    if steps:
                        self._call_loop(partial(self._deliver, steps))
        except BaseException as error:
            log.exception("the transformers engine failed; it takes no more requests")
            self._call_loop(partial(self._fail, partial(_engine_failed, error)))

    def _call_loop(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        # A loop that has ended has no readers left.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _take_inbox(self) -> bool:
        """Wait until there is work, and move it to the scheduler; False: it is time to end."""
        with self._changed:
            while not self._is_closing and not self._inbox and not self._has_work():
                self._changed.wait()
            for row in self._inbox:
                self._scheduler.add(row)
            self._inbox.clear()
            return not self._is_closing

    def _has_work(self) -> bool:
        return self._scheduler.num_running + self._scheduler.num_waiting > 0


def _engine_failed(cause: BaseException) -> EngineShutdown:
    failure = EngineShutdown(f"the engine failed: {type(cause).__name__}: {cause}")
    failure.__cause__ = cause
    return failure
