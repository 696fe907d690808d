"""Recordings of KV events: what is written, and what becomes of it when it is played."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.llm.kv.scene import BLOCK_SIZE, DEADLINE_S, Host, finds, store, tokens_hashes
from tests.sim.loop import SimLoop, run

from dynamo._core.errors import InvalidArgument
from dynamo.llm import KvIndexer, KvRecorder
from dynamo.llm._kv_events import RouterEvent
from dynamo.llm._kv_recorder import replay_events
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._component import Component

PROMPT = tokens_hashes(4)


def component_of(runtime: DistributedRuntime) -> Component:
    return runtime.namespace("test").component("worker")


async def counted(recorder: KvRecorder, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await recorder.event_count() < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_what_was_recorded_can_be_played_into_an_index(tmp_path: Path) -> None:
    host = Host()
    async with host.process() as runtime, host.worker() as one, host.worker(dp_rank=1) as other:
        recorder = KvRecorder(component_of(runtime), tmp_path / "sub" / "events.jsonl")
        await asyncio.sleep(0)
        names = store(one, PROMPT)
        store(other, PROMPT[:2])
        one.removed(names[3:])
        await counted(recorder, 3)
        copy = KvIndexer(runtime.namespace("elsewhere").component("worker"), BLOCK_SIZE)
        assert await recorder.replay_events(copy) == 3
        assert copy.find(PROMPT) == {one.worker: 3, other.worker: 2}
        assert await recorder.elapsed_time() > 0
        await recorder.close()
        store(one, tokens_hashes(1, first_token=99))
    lines = [json.loads(line) for line in (tmp_path / "sub" / "events.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert lines[0].keys() == {"timestamp", "event"}
    assert lines[0]["event"]["worker_id"] == one.worker.worker_id
    assert lines[0]["event"]["event"]["data"]["stored"]["blocks"][0]["tokens_hash"] == PROMPT[0]
    assert lines[1]["event"]["event"] == {"event_id": 2, "dp_rank": 0, "data": {"removed": {"block_hashes": names[3:]}}}


async def test_a_recording_may_be_several_files_and_has_an_end(tmp_path: Path) -> None:
    host = Host()
    async with host.process() as runtime, host.worker() as worker:
        recorder = KvRecorder(component_of(runtime), tmp_path / "events.jsonl", max_lines_per_file=2, max_count=5)
        await asyncio.sleep(0)
        for number in range(9):
            store(worker, tokens_hashes(1, first_token=100 * number))
        async with asyncio.timeout(DEADLINE_S):
            await recorder.wait()
        assert await recorder.event_count() == 5
        copy = KvIndexer(runtime.namespace("elsewhere").component("worker"), BLOCK_SIZE)
        assert await recorder.replay_events(copy, max_count=4) == 4
        assert copy.workers() == {worker.worker: 4}
    names = {"events.jsonl": 2, "events_1.jsonl": 2, "events_2.jsonl": 1}
    assert {name: len((tmp_path / name).read_text().splitlines()) for name in names} == names


async def test_files_that_could_hold_nothing_are_refused(tmp_path: Path) -> None:
    async with Host().process() as runtime:
        with pytest.raises(InvalidArgument, match="max_lines_per_file is 0"):
            KvRecorder(component_of(runtime), tmp_path / "events.jsonl", max_lines_per_file=0)


async def test_a_recording_ends_in_time_and_when_it_is_told_to(tmp_path: Path) -> None:
    async with Host().process() as runtime:
        timed = KvRecorder(component_of(runtime), tmp_path / "timed.jsonl", max_time=0.01)
        async with asyncio.timeout(DEADLINE_S):
            await timed.wait()
        stopped = KvRecorder(component_of(runtime), tmp_path / "stopped.jsonl")
        stopped.shutdown()
        stopped.shutdown()
        await stopped.close()
        assert await stopped.event_count() == 0


async def test_a_recording_ends_with_the_runtime(tmp_path: Path) -> None:
    host = Host()
    async with host.process() as runtime:
        recorder = KvRecorder(component_of(runtime), tmp_path / "events.jsonl")
        await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        await recorder.wait()


class Clocked:
    """Notes when it was told of events."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def apply_event(self, event: RouterEvent) -> None:
        self.times_s.append(asyncio.get_running_loop().time())


def recording(path: Path, *timestamps: int) -> Path:
    event = {"worker_id": 1, "event": {"event_id": 1, "data": "cleared"}}
    path.write_text("".join(json.dumps({"timestamp": ms, "event": event}) + "\n" for ms in timestamps))
    return path


def test_events_are_played_as_fast_as_they_came_if_that_is_wanted(tmp_path: Path) -> None:
    path = recording(tmp_path / "events.jsonl", 1000, 1500, 3000, 60_000)

    async def main(loop: SimLoop) -> list[float]:
        clocked = Clocked()
        begin_s = loop.time()
        assert await replay_events([path], clocked, timed=True, max_time=10.0) == 3
        return [at_s - begin_s for at_s in clocked.times_s]

    assert run(main, 1) == pytest.approx([0.0, 0.5, 2.0])


async def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    path = recording(tmp_path / "events.jsonl", 1)
    path.write_text(path.read_text() + '{"timestamp": 1}\n')
    with pytest.raises(InvalidArgument, match=r"events\.jsonl:2"):
        await replay_events([path], Clocked())


async def test_an_index_counts_recorded_events_that_do_not_fit(tmp_path: Path) -> None:
    event = {"worker_id": 1, "event": {"event_id": 1, "data": {"removed": {"block_hashes": [1, 1 << 63]}}}}
    other = {"storage_tier": "disk", **event}
    wrong = {"worker_id": 1, "event": {"event_id": 1, "data": {"removed": {"block_hashes": [-(1 << 63) - 1]}}}}
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"timestamp": 1, "event": one}) + "\n" for one in (event, other, wrong)))
    host = Host()
    async with host.worker() as worker, host.router() as indexer:
        store(worker, PROMPT)
        await finds(indexer, PROMPT, {worker.worker: 4})
        assert await replay_events([path], indexer) == 3
        assert indexer.stats().faults == {"unknown_block": 2, "other_medium": 1, "malformed": 1}
