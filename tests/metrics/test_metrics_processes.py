"""Several processes behind one scrape: whichever is asked answers for all of them. They are real processes."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.metrics.counting_process import END
from tests.metrics.reading import Samples, samples

from dynamo.metrics._processes import VARIABLE

DEADLINE_S = 60.0
PROGRAM = Path(__file__).with_name("counting_process.py")


class Counting:
    """One of the processes."""

    def __init__(self, process: Process, pid: str) -> None:
        self.process = process
        self.pid = pid

    async def read(self) -> Samples:
        """What its `/metrics` says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        lines = []
        async with asyncio.timeout(DEADLINE_S):
            while (line := (await self.process.stdout.readline()).decode()) != f"{END}\n":
                assert line, "it has ended"
                lines.append(line)
        return samples("".join(lines))

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await self.process.wait() == 0


Start = Callable[[int], Awaitable[Counting]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a process that shares its numbers with the others."""
    processes: list[Process] = []
    environment = os.environ | {VARIABLE: str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    async def start(number: int) -> Counting:
        process = await asyncio.create_subprocess_exec(
            sys.executable, PROGRAM, str(number), stdin=PIPE, stdout=PIPE, env=environment
        )
        processes.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return Counting(process, (await process.stdout.readline()).decode().strip())

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_whichever_process_is_asked_answers_for_all(start: Start) -> None:
    three, five = await start(3), await start(5)
    for asked in (three, five):
        page = await asked.read()
        assert page["sold_total", "kind=red"] == 8
        assert page["asked_total", "dynamo_namespace=shop,model=llama"] == 8
        assert page["took_seconds_bucket", "le=1.0"] == 0
        assert page["took_seconds_bucket", "le=10.0"] == page["took_seconds_count", ""] == 2
        assert page["took_seconds_sum", ""] == 8
        assert page["only_3_total", ""] == page["only_5_total", ""] == 1


async def test_a_gauge_is_that_of_each_process_or_one_number_of_all(start: Start) -> None:
    three, five = await start(3), await start(5)
    page = await three.read()
    assert {labels: value for (name, labels), value in page.items() if name == "waiting"} == {
        f"pid={three.pid}": 3,
        f"pid={five.pid}": 5,
    }
    assert [page[f"waiting_{across}", ""] for across in ("sum", "min", "max")] == [8, 3, 5]


async def test_what_only_one_process_knows_says_which_one_that_is(start: Start) -> None:
    three, five = await start(3), await start(5)
    for asked, number in ((three, 3), (five, 5)):
        page = await asked.read()
        pid = f"pid={asked.pid}"
        assert {labels: value for (name, labels), value in page.items() if name == "jobs"} == {pid: number}
        assert page["engine", pid] == number
        own = {labels for (name, labels), _ in page.items() if name.startswith(("dynamo_", "process_"))}
        assert [labels for labels in own if pid not in labels] == []


async def test_what_other_libraries_write_to_the_same_files_is_not_ours_to_tell(start: Start) -> None:
    page = await (await start(3)).read()
    assert [name for name, _ in page if name == "others"] == []


async def test_a_process_that_was_killed_is_counted_and_has_no_say_in_what_is_now(start: Start) -> None:
    three, five = await start(3), await start(5)
    await five.kill()
    page = await three.read()
    assert page["sold_total", "kind=red"] == 8
    assert {labels: value for (name, labels), value in page.items() if name == "waiting"} == {f"pid={three.pid}": 3}
    assert [page[f"waiting_{across}", ""] for across in ("sum", "min", "max")] == [3, 3, 3]


async def test_a_process_that_ended_is_counted(start: Start) -> None:
    three, five = await start(3), await start(5)
    await five.end()
    seven = await start(7)
    assert (await three.read())["sold_total", "kind=red"] == (await seven.read())["sold_total", "kind=red"] == 15


async def test_a_process_that_has_not_yet_written_a_byte_costs_nobody_anything(start: Start, tmp_path: Path) -> None:
    three = await start(3)
    (tmp_path / "counter_99999.db").touch()
    assert (await three.read())["sold_total", "kind=red"] == 3
