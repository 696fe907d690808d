"""Follows everybody who publishes KV events of a component, and keeps an index of what they say.

Discovery says who there is: whoever serves `kv_query`. Each is asked for all it holds when it comes, and for what is
missing when something is. Who is gone is forgotten at once. What nobody can vouch for is ignored, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from dynamo._core.errors import DynamoError, NotFound, ProtocolError
from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.llm._kv_events import Cleared, KvEvent, KvEventBatch, apply_event, weight_of
from dynamo.llm._kv_faults import Fault, Faults
from dynamo.llm._kv_publisher import KV_EVENTS
from dynamo.llm._kv_query import KV_QUERY, KvAnswer, KvQuery
from dynamo.llm._kv_stream import KvStream
from dynamo.runtime import Client, Component, Gap, Subscription

log = logging.getLogger(__name__)

#: Workers that are asked at a time, and how long one may take.
ASKED_MAX = 8
ANSWER_TIMEOUT_S = 30.0
RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
#: A worker whose events do not fit is asked for all of them, but no more often than this.
DOUBT_EVERY_S = 10.0
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
    doubt_at_s: float = 0.0
    #: Why it is not listened to; empty if it is.
    refusal: str = ""


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
        # Whose word counts for a worker: that of the source which told of it last.
        self._owners: dict[WorkerKey, Source] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._reclaiming: asyncio.Task[None] | None = None
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
        for worker in source.streams:
            self._disown(worker, source)

    def _disown(self, worker: WorkerKey, source: Source) -> None:
        if self._owners.get(worker) is source:
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
        work = 0
        while items := await heard.batch():
            for item in items:
                if isinstance(item, Gap):
                    # What it was, if it was of ours, is seen by the numbers of what comes after it.
                    self._note(Fault.GAP, item.missed or 1, "something was lost or could not be read", logging.INFO)
                    continue
                self._take(item.payload)
                work += weight_of(item.payload)
                if work >= HASHES_PER_TURN:
                    work = 0
                    await asyncio.sleep(0)
        raise _RuntimeHasEnded

    def _take(self, batch: KvEventBatch) -> None:
        source = self._sources.get(batch.source_id)
        if source is None:
            # One that is new is asked for everything as soon as discovery tells of it; one that is gone, never.
            self._note(Fault.UNLISTED, 1, "events of nobody whom discovery knows are ignored", logging.DEBUG)
            return
        worker = WorkerKey(batch.worker_id, batch.dp_rank)
        if source.refusal or not self._is_right(source, worker, batch.block_size):
            self._note(Fault.BLOCK_SIZE, len(batch.events), source.refusal)
            return
        stream = self._stream(source, worker)
        if stream is not None:
            self._apply(source, stream, stream.take(batch))
            if stream.is_behind:
                self._ask_soon(source)

    def _stream(self, source: Source, worker: WorkerKey) -> KvStream | None:
        """Return what is known of a worker from this source; None if it tells of too many."""
        if worker not in source.streams:
            if len(source.streams) >= RANKS_MAX:
                self._note(Fault.FULL, 1, f"{source.id:x} tells of more than {RANKS_MAX} ranks")
                return None
            source.streams[worker] = KvStream(worker)
        return source.streams[worker]

    def _apply(self, source: Source, stream: KvStream, events: Iterable[KvEvent]) -> None:
        before = (stream.num_duplicates, stream.num_wrong_epoch, stream.num_missed)
        worker, num_doubtful = stream.worker, 0
        for event in events:
            if self._owners.get(worker) is not source:
                self._own(worker, source)
            applied = apply_event(self._index, worker, event)
            if isinstance(event, Cleared):
                self._reclaim_soon()
            elif applied.applied * 8 != len(event.block_hashes):
                num_doubtful += applied.unknown_parent + applied.malformed
                self._faults.note_unapplied(applied)
        self._note(Fault.DUPLICATE, stream.num_duplicates - before[0], "events came twice", logging.DEBUG)
        self._note(Fault.MISSED, stream.num_missed - before[2], "events are missing, and asked for", logging.INFO)
        self._note(Fault.WRONG_EPOCH, stream.num_wrong_epoch - before[1], "events of a former start", logging.DEBUG)
        if num_doubtful and self._loop.time() >= source.doubt_at_s:
            source.doubt_at_s = self._loop.time() + DOUBT_EVERY_S
            stream.doubt()
            self._ask_soon(source)

    def _own(self, worker: WorkerKey, source: Source) -> None:
        former = self._owners.get(worker)
        if former is not None:
            what = (
                f"both {former.id:x} and {source.id:x} tell of {worker.worker_id:x}/{worker.dp_rank}: the last counts"
            )
            self._note(Fault.CONTESTED, 1, what)
            former.streams.pop(worker, None)
            self._index.clear(worker)
            self._reclaim_soon()
        self._owners[worker] = source

    def _is_right(self, source: Source, worker: WorkerKey, block_size: int) -> bool:
        if block_size == self._block_size:
            return True
        source.refusal = (
            f"worker {worker.worker_id:x}/{worker.dp_rank} has blocks of {block_size} tokens, and this router's have "
            f"{self._block_size}: its events are ignored; start both with the same block size"
        )
        log.error("%s", source.refusal)
        for other in source.streams:
            self._disown(other, source)
        source.streams.clear()
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
        async with await self._client.direct(KvQuery(known), source.id, item_type=KvAnswer) as parts:
            async for part in parts:
                worker = WorkerKey(part.worker_id, part.dp_rank)
                if not self._is_right(source, worker, part.block_size):
                    return
                told.add(worker)
                if (told_stream := self._stream(source, worker)) is not None:
                    self._apply(source, told_stream, told_stream.answer(part))
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
