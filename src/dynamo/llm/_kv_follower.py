"""Follows everybody who publishes KV events of a component, and keeps an index of what they say.

Discovery says who there is: whoever serves `kv_query`. Each is asked for all it holds when it comes, and for what is
missing when something is. Who is gone is forgotten at once. What nobody can vouch for is ignored, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, NotFound, ProtocolError
from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.llm._kv_events import EVENT_WEIGHT, Cleared, KvEvent, KvEventBatch, apply_event, num_hashes, parts_of
from dynamo.llm._kv_faults import Fault, Faults
from dynamo.llm._kv_publisher import KV_EVENTS
from dynamo.llm._kv_query import KV_QUERY, KvAnswer, KvQuery
from dynamo.llm._kv_stream import Forget, KvStream
from dynamo.runtime import Client, Gap, Subscription
from dynamo.runtime._component import Component

log = logging.getLogger(__name__)

#: Workers that are asked at a time, and how long one may take.
ASKED_MAX = 8
ANSWER_TIMEOUT_S = 30.0
RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
#: A worker whose events do not fit is asked for all of them. The pause before the next time doubles from here to there:
#: they never fit an index that has forgotten their beginnings because it was full. After so long without such events
#: the next one is another matter, and the pause is the short one again.
DOUBT_S_MIN, DOUBT_S_MAX = 10.0, 600.0
#: A worker of which two processes tell is taken from one of them by the other no more often than this.
CONTEST_S = 60.0
#: Others on the loop have their turn after about so much.
HASHES_PER_TURN = 4096
#: Ranks that one source may tell of.
RANKS_MAX = 1024


@dataclass(eq=False)
class Source:
    """One instance that tells of the workers of which it knows; nearly always of itself."""

    id: int
    streams: dict[WorkerKey, KvStream] = field(default_factory=dict)
    #: Asks it what is missing.
    asking: asyncio.Task[None] | None = None
    was_asked: bool = False
    #: When the last of its events came that did not fit, and when it may be asked for all of them again.
    doubted_at_s: float = -math.inf
    doubt_at_s: float = -math.inf
    doubt_pause_s: float = DOUBT_S_MIN
    #: Why it is not listened to; empty if it is.
    refusal: str = ""
    #: Who applies what it says: one piece after the other, although others have their turn in between.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Owner:
    """Whose word counts for a worker, and from when on another one's may."""

    source: Source
    until_s: float = -math.inf


class _RuntimeHasEnded(Exception):
    """Nothing more will be heard."""


class KvFollower:
    """Keeps `index` until `close`."""

    def __init__(self, component: Component, block_size: int, index: PrefixIndex, faults: Faults) -> None:
        self._component = component
        self._runtime = component.runtime
        self._block_size = block_size
        self._index = index
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(ASKED_MAX)
        # The mutable state.
        self._client: Client | None = None
        self._sources: dict[int, Source] = {}
        # A source has a stream of each worker that it owns, and of no other.
        self._owners: dict[WorkerKey, Owner] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._reclaiming: asyncio.Task[None] | None = None
        self._work = 0
        self._progress = asyncio.Event()
        self._running = self._loop.create_task(self._run(), name=f"follow the KV events of {component.name}")
        #: Questions that were asked and answered, and the answers that told everything.
        self.num_answers = 0
        self.num_dumps = 0

    async def close(self) -> None:
        """Follow nobody any more. A second call changes nothing."""
        self._running.cancel()
        await asyncio.wait([self._running])

    async def synced(self, timeout_s: float) -> None:
        """Wait until everybody who is there was asked, and nothing is known to be missing. Raises `DynamoError`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_synced():
                    if self._running.done():
                        raise DynamoError(f"the KV events of {self._component.name} are not followed any more")
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            behind = [f"{source.id:x}" for source in self._sources.values() if not _is_synced(source)]
            raise DynamoError(
                f"the KV blocks of {', '.join(behind) or 'the workers'} are not known after {timeout_s:g} s"
            ) from None

    @property
    def is_following(self) -> bool:
        """Whether what is said now is heard; not if the event plane or discovery is away, or all is over."""
        return self._client is not None

    @property
    def sources(self) -> dict[int, str]:
        """Who is there, and why it is not listened to, where it is not."""
        return {source.id: source.refusal for source in self._sources.values()}

    def _is_synced(self) -> bool:
        return self._client is not None and all(map(_is_synced, self._sources.values()))

    # Life.

    async def _run(self) -> None:
        delay_s = RETRY_S_MIN
        try:
            while not self._runtime.primary_token().is_cancelled():
                try:
                    await self._follow()
                except _RuntimeHasEnded:
                    return
                except DynamoError as error:
                    if self._runtime.primary_token().is_cancelled():
                        return
                    log.warning(
                        "the KV events of %s cannot be followed; trying again in %.1f s: %s",
                        self._component.name,
                        delay_s,
                        error,
                    )
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, RETRY_S_MAX)
        except Exception:
            log.exception("the KV events of %s are not followed any more: a fault", self._component.name)
        finally:
            self._progress.set()

    async def _follow(self) -> None:
        """Listen, and follow discovery, until the runtime ends."""
        async with await self._component.subscribe(KV_EVENTS, KvEventBatch) as heard:
            client = await self._component.endpoint(KV_QUERY).client()
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    self._tasks.create_task(self._read(heard))
                    await self._follow_sources(client)
            except ExceptionGroup as ends:
                raise ends.exceptions[0] from None
            finally:
                self._client = None
                await client.close()

    async def _follow_sources(self, client: Client) -> None:
        while True:
            ids = client.instance_ids()
            for id in [id for id in self._sources if id not in ids]:
                self._leave(self._sources.pop(id))
            for id in ids:
                if id not in self._sources:
                    self._sources[id] = Source(id)
                self._ask_soon(self._sources[id])
            self._client = client
            self._progress.set()
            await client.wait_for_change()

    def _leave(self, source: Source) -> None:
        if source.asking is not None:
            source.asking.cancel()
        self._drop_all(source)

    def _drop_all(self, source: Source) -> None:
        """Forget what a source has told; what is being applied of it ends there."""
        for worker in source.streams:
            self._disown(worker, source)
        source.streams.clear()

    def _disown(self, worker: WorkerKey, source: Source) -> None:
        owner = self._owners.get(worker)
        if owner is not None and owner.source is source:
            del self._owners[worker]
            self._index.remove_worker(worker)
            self._reclaim_soon()

    def _reclaim_soon(self) -> None:
        if self._tasks is not None and (self._reclaiming is None or self._reclaiming.done()):
            self._reclaiming = self._tasks.create_task(self._reclaim())

    async def _reclaim(self) -> None:
        is_done = self._index.reclaim()
        while not is_done:
            await asyncio.sleep(0)
            is_done = self._index.reclaim()

    # Events.

    async def _read(self, heard: Subscription[KvEventBatch]) -> None:
        while items := await heard.batch():
            for item in items:
                if isinstance(item, Gap):
                    # What it was, if it was of ours, is seen by the numbers of what comes after it.
                    self._note(Fault.GAP, item.missed or 1, "something was lost or could not be read", logging.INFO)
                    continue
                await self._take(item.payload)
                await self._worked(EVENT_WEIGHT)
        raise _RuntimeHasEnded

    async def _worked(self, weight: int) -> None:
        """Let others have their turn, if it is time."""
        self._work += weight
        if self._work >= HASHES_PER_TURN:
            self._work = 0
            await asyncio.sleep(0)

    async def _take(self, batch: KvEventBatch) -> None:
        source = self._sources.get(batch.source_id)
        if source is None:
            # One that is new is asked for everything as soon as discovery tells of it; one that is gone, never.
            self._note(Fault.UNLISTED, 1, "events of nobody whom discovery knows are ignored", logging.DEBUG)
            return
        worker = WorkerKey(batch.worker_id, batch.dp_rank)
        if source.refusal or not self._is_right(source, worker, batch.block_size):
            self._note(Fault.BLOCK_SIZE, len(batch.events), source.refusal)
            return
        stream = self._stream(source, worker, len(batch.events))
        if stream is not None:
            await self._apply(source, stream, stream.take(batch))
            if stream.is_behind:
                self._ask_soon(source)

    def _stream(self, source: Source, worker: WorkerKey, num_events: int) -> KvStream | None:
        """Return what is known of a worker from this source; None if its word does not count.

        That may be the first time that it tells of the worker, and with events it may take it from another source.
        """
        if worker in source.streams:
            return source.streams[worker]
        if len(source.streams) >= RANKS_MAX:
            self._note(Fault.FULL, 1, f"{source.id:x} tells of more than {RANKS_MAX} ranks")
            return None
        owner = self._owners.get(worker)
        if owner is None:
            self._owners[worker] = Owner(source)
        elif not num_events or not self._hand_over(worker, owner, source):
            return None
        stream = source.streams[worker] = KvStream(worker)
        return stream

    def _hand_over(self, worker: WorkerKey, owner: Owner, to: Source) -> bool:
        """Have the word of another source count for a worker, unless it was handed over not long ago."""
        former, now = owner.source, self._loop.time()
        what = f"both {former.id:x} and {to.id:x} tell of {worker.worker_id:x}/{worker.dp_rank}"
        self._note(Fault.CONTESTED, 1, f"{what}: who spoke last counts, for {CONTEST_S:g} s")
        if now < owner.until_s:
            return False
        del former.streams[worker]
        self._owners[worker] = Owner(to, now + CONTEST_S)
        self._index.remove_worker(worker)
        self._reclaim_soon()
        return True

    async def _apply(self, source: Source, stream: KvStream, events: Iterable[KvEvent | Forget]) -> None:
        async with source.turn:
            before = (stream.num_duplicates, stream.num_wrong_epoch, stream.num_missed)
            try:
                num_doubtful = await self._apply_each(source, stream, events)
            except BaseException:
                stream.doubt()  # of an event that was cut off nobody knows how much was applied
                raise
            self._note(Fault.DUPLICATE, stream.num_duplicates - before[0], "events came twice", logging.DEBUG)
            former = "events of a former start"
            self._note(Fault.WRONG_EPOCH, stream.num_wrong_epoch - before[1], former, logging.DEBUG)
            missing = "events are missing, and asked for"
            self._note(Fault.MISSED, stream.num_missed - before[2], missing, logging.INFO)
            if num_doubtful:
                self._note_doubt(source, stream)
            # Publishers say each second how far they are, so that it is not long after the pause.
            if stream.is_doubtful and self._loop.time() >= source.doubt_at_s:
                self._doubt(source, stream)

    async def _apply_each(self, source: Source, stream: KvStream, events: Iterable[KvEvent | Forget]) -> int:
        """Apply events as long as the source's word counts, and return how many blocks of them make it doubtful."""
        num_doubtful = 0
        for event in events:
            for part in (event,) if isinstance(event, Forget) else parts_of(event):
                # While others had their turn the worker may have become another source's, or nobody's.
                if source.streams.get(stream.worker) is not stream:
                    return 0
                num_doubtful += self._apply_one(stream.worker, part)
                await self._worked(EVENT_WEIGHT + (0 if isinstance(part, Forget) else num_hashes(part)))
        return num_doubtful

    def _apply_one(self, worker: WorkerKey, event: KvEvent | Forget) -> int:
        if isinstance(event, Forget):
            self._index.remove_worker(worker)
            self._reclaim_soon()
            return 0
        applied = apply_event(self._index, worker, event)
        if isinstance(event, Cleared):
            self._reclaim_soon()
            return 0
        if applied.applied * 8 == len(event.block_hashes):
            return 0
        self._faults.note_unapplied(applied)
        return applied.unknown_parent + applied.malformed

    def _note_doubt(self, source: Source, stream: KvStream) -> None:
        stream.is_doubtful, now = True, self._loop.time()
        if now - source.doubted_at_s >= DOUBT_S_MAX:
            source.doubt_pause_s = DOUBT_S_MIN
        source.doubted_at_s = now

    def _doubt(self, source: Source, stream: KvStream) -> None:
        """Ask a source for everything, and not again before a pause."""
        source.doubt_at_s = self._loop.time() + source.doubt_pause_s
        source.doubt_pause_s = min(source.doubt_pause_s * 2, DOUBT_S_MAX)
        stream.doubt()
        self._ask_soon(source)

    def _is_right(self, source: Source, worker: WorkerKey, block_size: int) -> bool:
        if block_size == self._block_size:
            return True
        source.refusal = (
            f"worker {worker.worker_id:x}/{worker.dp_rank} has blocks of {block_size} tokens, and this router's have "
            f"{self._block_size}: its events are ignored; start both with the same block size"
        )
        log.error("%s", source.refusal)
        self._drop_all(source)
        return False

    # Questions.

    def _ask_soon(self, source: Source) -> None:
        if _is_synced(source) or source.asking is not None or self._tasks is None:
            return
        source.asking = self._tasks.create_task(self._ask_until_synced(source))

    async def _ask_until_synced(self, source: Source) -> None:
        delay_s = RETRY_S_MIN
        try:
            while not _is_synced(source):
                try:
                    async with self._slots:
                        async with asyncio.timeout(ANSWER_TIMEOUT_S):
                            await self._ask(source)
                    delay_s = RETRY_S_MIN
                except (DynamoError, TimeoutError) as error:
                    self._note(Fault.NOT_ANSWERED, 1, f"{source.id:x} was asked what it holds: {error or 'no answer'}")
                    if isinstance(error, ProtocolError):
                        for stream in source.streams.values():
                            stream.doubt()  # its events may be of a kind that is not known here; a dump has none
                    delay_s = min(delay_s * 2, RETRY_S_MAX)
                if not _is_synced(source):
                    await asyncio.sleep(delay_s)
        finally:
            source.asking = None
            self._progress.set()

    async def _ask(self, source: Source) -> None:
        """Ask a source what is missing of each of its ranks, and apply what it says."""
        if self._client is None:
            raise NotFound("nobody is followed right now")
        known = [one for stream in source.streams.values() if (one := stream.known()) is not None]
        for stream in source.streams.values():
            stream.ask()
        asked, told = list(source.streams), set[WorkerKey]()
        context = Context(f"{KV_QUERY}-{self._runtime.rng.getrandbits(64):016x}")
        async with await self._client.direct(KvQuery(known), source.id, item_type=KvAnswer, context=context) as parts:
            async for part in parts:
                worker = WorkerKey(part.worker_id, part.dp_rank)
                if not self._is_right(source, worker, part.block_size):
                    return
                told.add(worker)
                if (told_stream := self._stream(source, worker, 0)) is not None:
                    await self._apply(source, told_stream, told_stream.answer(part))
                self.num_dumps += part.is_dump and part.is_last
                await asyncio.sleep(0)
        for worker in asked:
            if worker not in told and worker in source.streams:
                del source.streams[worker]
                self._disown(worker, source)
        source.was_asked = True
        self.num_answers += 1

    def _note(self, fault: Fault, count: int, what: str, level: int = logging.WARNING) -> None:
        self._faults.note(fault, count, what, level)


def _is_synced(source: Source) -> bool:
    if source.refusal:
        return True
    return source.was_asked and not any(stream.is_behind for stream in source.streams.values())
