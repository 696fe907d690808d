"""Records the KV events of a component as they come, one JSON object a line, and plays them back.

A line is `{"timestamp": ..., "event": {"worker_id": ..., "event": {...}}}`, with milliseconds since 1970. What was
before the recording is not in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo._core.stability import beta
from dynamo.llm._kv_arguments import check_kind, check_number_or_none, check_whole_or_none
from dynamo.llm._kv_events import KvEventBatch, RouterEvent, router_events
from dynamo.llm._kv_publisher import KV_EVENTS
from dynamo.llm._numbers import shown
from dynamo.runtime import Event
from dynamo.runtime._component import Component

log = logging.getLogger(__name__)

OUTPUT_PATH = "kv_events.jsonl"
EVENTS_PER_TURN = 256


class RecordedEvent(msgspec.Struct, frozen=True):
    """One line."""

    timestamp: int
    event: RouterEvent


class TakesEvents(Protocol):
    """Something that events can be played to, such as a `KvIndexer`."""

    def apply_event(self, event: RouterEvent) -> None:
        """Take an event. What does not fit is no reason to raise."""


@beta(since="0.1")
class KvRecorder:
    """Records from when it is made, in the event loop, until `shutdown`, a limit, or the end of the runtime.

    `output_path` is `kv_events.jsonl` in the working directory unless given. With `max_lines_per_file` it is the first
    file, and those that follow have a number in their names. `max_count` events are recorded at most, for `max_time`
    seconds at most; None is no limit. Raises `InvalidArgument`, which names the parameter, for a value that makes no
    sense.
    """

    def __init__(
        self,
        component: Component,
        output_path: str | Path | None = None,
        max_lines_per_file: int | None = None,
        max_count: int | None = None,
        max_time: float | None = None,
    ) -> None:
        check_kind("component", component, Component, "runtime.namespace('ns').component('component')")
        if output_path is not None:
            check_kind("output_path", output_path, (str, Path), "a path, or None")
        check_whole_or_none("max_lines_per_file", max_lines_per_file, least=1)
        check_whole_or_none("max_count", max_count)
        check_number_or_none("max_time", max_time)
        self._component = component
        self._path = Path(output_path or OUTPUT_PATH)
        self._max_lines = max_lines_per_file
        self._max_count = max_count
        self._max_time_s = max_time
        self._loop = asyncio.get_running_loop()
        self._begin_s = self._loop.time()
        self._end_s: float | None = None
        # The mutable state.
        self._count = 0
        self._files: list[Path] = []
        self._num_lines = 0
        self._running = self._loop.create_task(self._run(), name=f"record to {self._path}")

    async def event_count(self) -> int:
        """How many events were recorded."""
        return self._count

    async def elapsed_time(self) -> float:
        """For how many seconds it has recorded."""
        return (self._loop.time() if self._end_s is None else self._end_s) - self._begin_s

    async def wait(self) -> None:
        """Wait until it has ended. Raises `OSError` if a file could not be written."""
        await asyncio.shield(self._running)

    def shutdown(self) -> None:
        """Record no more. A second call changes nothing."""
        self._running.cancel()

    async def close(self) -> None:
        """Record no more, and return when all is written."""
        self.shutdown()
        await asyncio.wait([self._running])

    async def replay_events(
        self,
        indexer: TakesEvents,
        timed: bool = False,
        max_count: int | None = None,
        max_time: float | None = None,
    ) -> int:
        """Play what was recorded so far; returns how many events. See `replay_events`."""
        return await replay_events(list(self._files), indexer, timed, max_count, max_time)

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._max_time_s):
                await self._record()
        except TimeoutError:
            return
        except DynamoError as error:
            log.error("the KV events of %s are not recorded: %s", self._component.name, error)
        except OSError:
            log.exception("the KV events of %s are not recorded any more", self._component.name)
            raise
        finally:
            self._end_s = self._loop.time()

    async def _record(self) -> None:
        async with await self._component.subscribe(KV_EVENTS, KvEventBatch) as heard:
            while items := await heard.batch():
                lines: list[bytes] = []
                now_ms = time.time_ns() // 1_000_000
                for item in items:
                    if isinstance(item, Event):
                        lines += _lines(item.payload, now_ms)
                left = len(lines) if self._max_count is None else self._max_count - self._count
                # A file that is begun is written to its end: a cancellation waits for the thread.
                await self._write(lines[:left])
                if self._max_count is not None and self._count >= self._max_count:
                    return

    async def _write(self, lines: list[bytes]) -> None:
        writing = asyncio.ensure_future(asyncio.to_thread(self._append, lines))
        try:
            await asyncio.shield(writing)
        finally:
            await asyncio.wait([writing])

    def _append(self, lines: list[bytes]) -> None:
        while lines:
            if not self._files or (self._max_lines is not None and self._num_lines >= self._max_lines):
                self._begin_file()
            room = len(lines) if self._max_lines is None else self._max_lines - self._num_lines
            with self._files[-1].open("ab") as file:
                file.writelines(lines[:room])
            self._num_lines += len(lines[:room])
            self._count += len(lines[:room])
            lines = lines[room:]

    def _begin_file(self) -> None:
        number = len(self._files)
        path = self._path if not number else self._path.with_stem(f"{self._path.stem}_{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self._files.append(path)
        self._num_lines = 0


async def replay_events(
    paths: list[Path],
    indexer: TakesEvents,
    timed: bool = False,
    max_count: int | None = None,
    max_time: float | None = None,
) -> int:
    """Play recordings to an index; returns how many events. With `timed` they take as long as they did.

    It ends after `max_count` events or `max_time` seconds. Raises `InvalidArgument` for a line that is no event, and
    for arguments that make no sense.
    """
    if not callable(getattr(indexer, "apply_event", None)):
        raise InvalidArgument(f"indexer is {shown(indexer)}: give a KvIndexer, or what has its apply_event")
    check_whole_or_none("max_count", max_count)
    check_number_or_none("max_time", max_time)
    loop = asyncio.get_running_loop()
    begin_s, first_ms, count = loop.time(), None, 0
    for recorded in _read(paths):
        if count == max_count or (max_time is not None and loop.time() - begin_s >= max_time):
            break
        if first_ms is None:
            first_ms = recorded.timestamp
        if timed:
            due_s = begin_s + (recorded.timestamp - first_ms) / 1000
            if max_time is not None and due_s - begin_s >= max_time:
                break
            await asyncio.sleep(max(0.0, due_s - loop.time()))
        elif count % EVENTS_PER_TURN == 0:
            await asyncio.sleep(0)
        indexer.apply_event(recorded.event)
        count += 1
    return count


def _read(paths: list[Path]) -> Iterator[RecordedEvent]:
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield msgspec.json.decode(line, type=RecordedEvent)
                except (ValueError, RecursionError) as error:
                    raise InvalidArgument(f"{path}:{number} is no recorded KV event: {error}") from error


def _lines(batch: KvEventBatch, now_ms: int) -> list[bytes]:
    try:
        return [msgspec.json.encode(RecordedEvent(now_ms, event)) + b"\n" for event in router_events(batch)]
    except ValueError as error:
        log.warning("events of worker %x are not recorded: %s", batch.worker_id, error)
        return []
