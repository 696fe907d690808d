"""Tells routers what a worker holds in its KV cache.

An engine calls it, or it listens to an engine's own events. What is true here: nothing waits for anybody, and no call
fails because nobody can hear; the worker keeps an index of its own, from which routers that have missed events learn
them; events are told in order, counted from 1, under an epoch that is another one at each start.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING

import msgspec

from dynamo._core.address import event_subject
from dynamo._core.blocks import block_hashes as hash_blocks
from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo._core.prefix_index import WorkerKey
from dynamo._core.stability import stable
from dynamo.llm._block_hash import BlockMmInfo, compute_block_hash_for_seq
from dynamo.llm._kv_arguments import (
    DP_RANK_MAX,
    check_block_size,
    check_hashes,
    check_kind,
    check_number_or_none,
    check_text,
    check_text_or_none,
    check_tokens,
    check_whole,
    check_whole_or_none,
)
from dynamo.llm._kv_events import (
    Cleared,
    KvCacheEventData,
    KvEvent,
    KvEventBatch,
    Removed,
    Stored,
    U64s,
    num_hashes,
    read_data,
    removed_events,
    stored_events,
    to_u64,
    to_u64s,
)
from dynamo.llm._kv_faults import Fault, Faults
from dynamo.llm._kv_local_index import LocalIndex
from dynamo.llm._kv_query import queries_beside
from dynamo.llm._numbers import shown
from dynamo.runtime import Endpoint

if TYPE_CHECKING:
    from dynamo.llm._kv_zmq_events import ZmqKvEvents

log = logging.getLogger(__name__)

KV_EVENTS = "kv_events"
#: How often a publisher says how far it has counted while it has nothing else to say.
HEAD_S = 1.0
#: One message on the event plane has at most so many events, and about so many hashes: a router applies it at once.
BATCH_EVENTS_MAX = 256
BATCH_HASHES_MAX = 8192
#: What other threads may have said before the loop has heard it.
PENDING_EVENTS_MAX = 65536
#: What reading a value of somebody else may raise.
_UNFIT = (ValueError, TypeError, OverflowError, InvalidArgument)


@stable(since="0.1")
class KvPublisher:
    """Publishes the KV events of one rank of a worker. To be made in the process's event loop.

    What it publishes comes from one of two sources:

    - calls: an engine calls `stored`, `removed` and `cleared` (it is a `KvEventSink`), or code of your own the
      `publish_...` methods. Every call may come from any thread, and returns at once.
    - `zmq_endpoint`: it publishes what a vLLM engine says at that ZeroMQ address ("tcp://127.0.0.1:5557"), under
      `zmq_topic`. `zmq_replay_endpoint` is where the engine says again what was lost; without it the cache counts as
      empty whenever something is.

    `endpoint` is the worker's, whose instance id it has unless a `worker_id` is given; `kv_block_size` is the tokens in
    a block, and `dp_rank` the data parallel rank that holds the blocks. Events are sent as soon as the loop has its
    turn, or so many milliseconds later as `batching_timeout_ms` says. It ends with the runtime, with `shutdown`, or as
    `async with` does.

    Raises `InvalidArgument`, which names the parameter, for a value that makes no sense. What is wrong with an event
    raises nothing afterwards: it is counted in `faults`, and told in the log at most once a minute.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        worker_id: int | None = None,
        kv_block_size: int = 0,
        dp_rank: int = 0,
        *,
        zmq_endpoint: str | None = None,
        zmq_replay_endpoint: str | None = None,
        zmq_topic: str = "",
        batching_timeout_ms: float | None = None,
    ) -> None:
        check_kind("endpoint", endpoint, Endpoint, "the worker's endpoint, runtime.endpoint('ns.component.endpoint')")
        check_whole_or_none("worker_id", worker_id)
        check_block_size("kv_block_size", kv_block_size)
        check_whole("dp_rank", dp_rank, most=DP_RANK_MAX)
        check_number_or_none("batching_timeout_ms", batching_timeout_ms)
        _check_source(zmq_endpoint, zmq_replay_endpoint, zmq_topic)
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        #: The worker's.
        self.endpoint: Endpoint = endpoint
        self._runtime = endpoint.runtime
        self._subject = event_subject(KV_EVENTS, endpoint.id.namespace, endpoint.id.component)
        self._delay_s = (batching_timeout_ms or 0.0) / 1000
        self._queries = queries_beside(endpoint)
        self._source_id = endpoint.lease_id()
        #: Who holds the blocks: `(worker_id, dp_rank)`.
        self.worker: WorkerKey = WorkerKey(self._source_id if worker_id is None else worker_id, dp_rank)
        #: Tokens in a block.
        self.block_size: int = kv_block_size
        self._local = LocalIndex(self.worker, kv_block_size, endpoint.runtime.rng.getrandbits(62) + 1)
        self._faults = Faults(log, f"KV events of worker {self.worker.worker_id:x}/{dp_rank}", self._loop.time)
        # The mutable state: what was told so far, what other threads said, and what goes on.
        self._sent_id = 0
        self._pending: deque[KvEvent] = deque()
        self._has_overflowed = False
        self._sending: asyncio.Task[None] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._source: ZmqKvEvents | None = None
        if zmq_endpoint is not None:
            self._listen(zmq_endpoint, zmq_replay_endpoint, zmq_topic)
        self._runtime.primary_token().add_callback(self.shutdown)

    async def __aenter__(self) -> KvPublisher:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def num_blocks(self) -> int:
        """How many blocks the worker holds."""
        return self._local.num_blocks

    @property
    def faults(self) -> dict[str, int]:
        """How often something was wrong with the events, by reason; those of the engine that it listens to, too."""
        heard = self._source.faults if self._source is not None else {}
        return {**self._faults.counts, **heard}

    # As an engine calls it.

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        """Blocks were filled, each the continuation of the one before it, the first that of `parent_hash`.

        `block_hashes` are the engine's names for them. What is in them is said by `tokens_hashes` (see
        `compute_block_hash_for_seq`), or by `token_ids`, which are those of whole blocks. Blocks behind one that is not
        stored are left out. It never fails: what is wrong is counted in `faults`.
        """
        try:
            if tokens_hashes is None:
                tokens_hashes = hash_blocks([] if token_ids is None else token_ids, self.block_size)
            names, tokens = to_u64s(block_hashes), to_u64s(tokens_hashes)
            parent = None if parent_hash is None else to_u64(parent_hash)
        except _UNFIT as error:
            self._note(Fault.MALFORMED, _num_of(block_hashes), f"blocks are left out: {error}")
            return
        self._store(parent, names, tokens)

    def removed(self, block_hashes: Sequence[int]) -> None:
        """Blocks have gone, by the engine's names for them. It never fails, as `stored`."""
        try:
            names = to_u64s(block_hashes)
        except _UNFIT as error:
            self._note(Fault.MALFORMED, _num_of(block_hashes), f"a removal is left out: {error}")
            return
        for event in removed_events(names):
            self._submit(event)

    def cleared(self) -> None:
        """All blocks have gone."""
        self._submit(Cleared())

    # As other code calls it.

    def publish_stored(
        self,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        parent_hash: int | None = None,
        block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
        lora_name: str | None = None,
        is_eagle: bool = False,
        cache_salt: str | None = None,
    ) -> None:
        """Blocks with these tokens were filled: `num_block_tokens` says how many are in each: the block size.

        `block_hashes` are the engine's names for them, and `parent_hash` that of the block before the first. With media
        in them, a `lora_name`, `is_eagle` or a `cache_salt` they are told apart as `compute_block_hash_for_seq` does. A
        block of another size, and all behind it, are left out; that, and what is wrong with single values, is counted
        in `faults`. Raises `InvalidArgument` for an argument that is of another kind.
        """
        check_tokens("token_ids", token_ids)
        check_hashes("num_block_tokens", num_block_tokens)
        check_hashes("block_hashes", block_hashes)
        check_text_or_none("lora_name", lora_name)
        check_text_or_none("cache_salt", cache_salt)
        num_full = next(
            (at for at, tokens in enumerate(num_block_tokens) if tokens != self.block_size), len(num_block_tokens)
        )
        self._note(
            Fault.SHORT_BLOCK,
            len(num_block_tokens) - num_full,
            f"blocks that have not {self.block_size} tokens, and those behind them, are left out",
        )
        extra = 1 if is_eagle else 0
        try:
            tokens_hashes = compute_block_hash_for_seq(
                token_ids[: num_full * self.block_size + extra],
                self.block_size,
                None if block_mm_infos is None else block_mm_infos[:num_full],
                lora_name,
                is_eagle,
                cache_salt,
            )
        except _UNFIT as error:
            self._note(Fault.MALFORMED, num_full, f"blocks are left out: {error}")
            return
        if num_full:
            self.stored(parent_hash, block_hashes[:num_full], tokens_hashes)

    def publish_removed(self, block_hashes: Sequence[int]) -> None:
        """Blocks have gone, by the engine's names for them. Raises `InvalidArgument` for what is no list."""
        check_hashes("block_hashes", block_hashes)
        self.removed(block_hashes)

    def publish_cleared(self) -> None:
        """All blocks have gone."""
        self.cleared()

    def publish_batch(self, events: Iterable[KvCacheEventData | dict[str, object]]) -> None:
        """Tell of several changes: `{"stored": {...}}`, `{"removed": {...}}` or `"cleared"`, plain or as structs.

        One that is wrong is counted in `faults`. Raises `InvalidArgument` for what is no list of changes.
        """
        if not isinstance(events, Iterable) or isinstance(events, str | bytes | Mapping):
            raise InvalidArgument(f"events is {shown(events)}: give a list of changes")
        for event in events:
            try:
                for one in read_data(msgspec.convert(event, KvCacheEventData)):
                    self._submit(one)
            except _UNFIT as error:
                self._note(Fault.MALFORMED, 1, f"an event is left out: {error}")

    def shutdown(self) -> None:
        """Tell nothing more, and be forgotten by routers. A second call changes nothing."""
        if threading.get_ident() != self._thread_id:
            self._loop.call_soon_threadsafe(self.shutdown)
        elif self._ending is None:
            self._ending = self._loop.create_task(self._end(), name="end a KV publisher")

    async def close(self) -> None:
        """Shut down, and return when that is done."""
        self.shutdown()
        assert self._ending is not None
        await asyncio.shield(self._ending)

    # From the engine to the local index.

    def _store(self, parent_hash: int | None, names: U64s, tokens: U64s) -> None:
        if len(names) != len(tokens):
            short = f"{len(names)} blocks with the tokens of {len(tokens)} are left out"
            self._note(Fault.SHORT_BLOCK, max(len(names), len(tokens)), short)
            return
        for event in stored_events(parent_hash, names, tokens):
            self._submit(event)

    def _submit(self, event: KvEvent) -> None:
        if threading.get_ident() == self._thread_id:
            self._take_pending()
            self._take(event)
        elif len(self._pending) >= PENDING_EVENTS_MAX:
            self._has_overflowed = True
        else:
            self._pending.append(event)
            self._loop.call_soon_threadsafe(self._take_pending)

    def _take_pending(self) -> None:
        while self._pending:
            self._take(self._pending.popleft())
        if self._has_overflowed:
            self._has_overflowed = False
            self._note(Fault.OVERFLOW, 1, "events came faster than they were taken; what is cached counts as unknown")
            self._take(Cleared())

    def _take(self, event: KvEvent) -> None:
        if self._ending is not None:
            return
        applied = self._local.take(event)
        if isinstance(event, Stored | Removed) and applied.applied * 8 != len(event.block_hashes):
            self._faults.note_unapplied(applied)
        if applied.applied:
            if self._local.event_id == 1:
                # Not before: a process is ready as soon as it serves something, and this is not what it is for.
                self._queries.add(self._local)
            self._send_soon()

    def _note(self, fault: Fault, count: int, what: str) -> None:
        self._faults.note(fault, count, what)

    # From the local index to the event plane.

    def _send_soon(self) -> None:
        if self._sending is None:
            self._sending = self._loop.create_task(self._send(), name="send KV events")

    async def _send(self) -> None:
        """Send what was not sent yet; then be back after a while, to say how far that is."""
        try:
            await asyncio.sleep(self._delay_s)
            await self._send_all()
        except DynamoError as error:
            if self._ending is None:
                self._note(Fault.NOT_SENT, 1, f"events could not be sent, and are later: {error}")
        finally:
            self._sending = None
            if self._ending is None:
                self._set_head_timer()

    async def _send_all(self) -> None:
        """Send what there is, or if that is nothing, how far it goes."""
        is_told = False
        while not is_told or self._sent_id < self._local.event_id:
            # Events that are not kept any more are missed, and seen to be.
            self._sent_id = max(self._sent_id, self._local.kept_after)
            batch = self._next_batch()
            try:
                await self._runtime.events.publish(self._subject, batch)
            except InvalidArgument as error:
                # It could never be sent. Those who listen see that it is missing, and ask for it.
                self._note(Fault.NOT_SENT, max(1, len(batch.events)), f"events are left out: {error}")
            self._sent_id += len(batch.events)
            is_told = True

    def _next_batch(self) -> KvEventBatch:
        local = self._local
        events: list[KvEvent] = []
        size = 0
        for event in local.events_after(self._sent_id, BATCH_EVENTS_MAX) or ():
            size += num_hashes(event)
            if events and size > BATCH_HASHES_MAX:
                break
            events.append(event)
        worker_id, dp_rank = self.worker
        return KvEventBatch(
            worker_id, dp_rank, self._source_id, self.block_size, local.epoch, self._sent_id + 1, events
        )

    def _set_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self._loop.call_later(HEAD_S, self._send_soon)

    # An engine's own events, and the end.

    def _listen(self, endpoint: str, replay_endpoint: str | None, topic: str) -> None:
        from dynamo.llm._kv_zmq_events import ZmqKvEvents

        self._source = ZmqKvEvents(self, endpoint, self.block_size, replay_endpoint=replay_endpoint, topic=topic)
        self._source.start()

    async def _end(self) -> None:
        self._runtime.primary_token().remove_callback(self.shutdown)
        if self._head_timer is not None:
            self._head_timer.cancel()
        try:
            if self._source is not None:
                await self._source.close()
            if self._sending is not None:
                self._sending.cancel()
                await asyncio.wait([self._sending])
            if self._local.take(Cleared()).applied:
                await self._send_all()
        except DynamoError as error:
            # The runtime may have ended: then discovery tells that the worker is gone.
            log.debug("the last KV events of worker %x were not sent: %s", self.worker.worker_id, error)
        finally:
            await self._queries.remove(self._local)


def _check_source(zmq_endpoint: object, zmq_replay_endpoint: object, zmq_topic: object) -> None:
    check_text_or_none("zmq_endpoint", zmq_endpoint)
    check_text_or_none("zmq_replay_endpoint", zmq_replay_endpoint)
    check_text("zmq_topic", zmq_topic)
    for name, value in (("zmq_replay_endpoint", zmq_replay_endpoint), ("zmq_topic", zmq_topic)):
        if value and zmq_endpoint is None:
            raise InvalidArgument(f"{name} is {shown(value)}, and there is no zmq_endpoint: give both, or neither")


def _num_of(hashes: object) -> int:
    """How many blocks count as left out where what was given may be no list of them."""
    return len(hashes) if isinstance(hashes, Sized) else 1
