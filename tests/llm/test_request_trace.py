"""The request trace: what is written of requests, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from dynamo._core.errors import ConfigError
from dynamo.llm import PreprocessedRequest
from dynamo.llm._request_trace import PENDING_MAX, TRACE_BLOCK_SIZE, RequestTrace, TraceLine

LINE = TraceLine(
    timestamp=1.0, input_length=0, output_length=3, hash_ids=[], block_size=TRACE_BLOCK_SIZE, request_id="a", model="m"
)
SYSTEM = list(range(3 * TRACE_BLOCK_SIZE))


def add(trace: RequestTrace, request_id: str, token_ids: list[int], about: Mapping[str, str] | None = None) -> None:
    line = msgspec.structs.replace(LINE, request_id=request_id, input_length=len(token_ids))
    trace.add(line, msgspec.structs.replace(PreprocessedRequest("m", token_ids), **(about or {})))


def lines_of(path: Path) -> list[TraceLine]:
    return [msgspec.json.decode(line, type=TraceLine) for line in path.read_bytes().splitlines()]


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


async def test_prompts_have_ids_in_common_as_far_as_they_agree(tmp_path: Path) -> None:
    async with RequestTrace(tmp_path / "trace.jsonl") as trace:
        add(trace, "one", [*SYSTEM, *range(1000, 1100)])
        add(trace, "two", [*SYSTEM, *range(2000, 2100)])
        add(trace, "three", [1, *SYSTEM])
    one, two, three = lines_of(tmp_path / "trace.jsonl")
    assert one.hash_ids[:3] == two.hash_ids[:3]
    assert len({*one.hash_ids, *two.hash_ids, *three.hash_ids}) == 3 + 1 + 1 + 3
    assert all(0 <= id < 2**63 for id in one.hash_ids)


async def test_tenants_and_adapters_have_no_ids_in_common_and_are_not_named(tmp_path: Path) -> None:
    abouts = [{}, {"cache_salt": "one"}, {"cache_salt": "other"}, {"lora_name": "one"}]
    async with RequestTrace(tmp_path / "trace.jsonl") as trace:
        for about in abouts:
            add(trace, "first", SYSTEM, about)
            add(trace, "second", [*SYSTEM, 5], about)
    lines = lines_of(tmp_path / "trace.jsonl")
    assert [first.hash_ids for first in lines[::2]] == [second.hash_ids for second in lines[1::2]]
    assert len({id for line in lines for id in line.hash_ids}) == 3 * len(abouts)
    assert b"one" not in (tmp_path / "trace.jsonl").read_bytes()


async def test_the_ids_of_two_processes_have_nothing_in_common(tmp_path: Path) -> None:
    for name in ("a", "b"):
        async with RequestTrace(tmp_path / name) as trace:
            add(trace, "one", SYSTEM)
    (one,), (other,) = lines_of(tmp_path / "a"), lines_of(tmp_path / "b")
    assert not {*one.hash_ids} & {*other.hash_ids}


async def test_a_trace_goes_on_where_one_is_already_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "trace.jsonl"
    for name in ("a", "b"):
        async with RequestTrace(path) as trace:
            add(trace, name, SYSTEM)
    assert [line.request_id for line in lines_of(path)] == ["a", "b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_there_are_never_more_files_than_there_may_be(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with RequestTrace(path, file_bytes_max=100, files_max=3) as trace:
        for name in "abcdef":
            add(trace, name, SYSTEM)
            await written(trace)
    assert names_in(tmp_path) == ["trace.jsonl", "trace.jsonl.1", "trace.jsonl.2"]
    kept = [lines_of(path.with_name(name))[0].request_id for name in ("trace.jsonl.2", "trace.jsonl.1", "trace.jsonl")]
    assert kept == ["d", "e", "f"]


async def written(trace: RequestTrace) -> None:
    async with trace:
        pass


async def test_what_comes_too_fast_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with RequestTrace(tmp_path / "trace.jsonl") as trace:
        with caplog.at_level(logging.WARNING):
            for number in range(PENDING_MAX + 5):
                add(trace, str(number), [])
        assert trace.num_lost == 5
    assert len(lines_of(tmp_path / "trace.jsonl")) == PENDING_MAX
    assert caplog.text.count("answers are not in the request trace") == 1


async def test_a_file_that_can_no_longer_be_written_fails_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    path = folder / "trace.jsonl"
    async with RequestTrace(path) as trace:
        path.unlink()
        folder.rmdir()
        with caplog.at_level(logging.WARNING):
            add(trace, "lost", SYSTEM)
            await written_without_file(trace)
        assert trace.num_lost == 1
        folder.mkdir()
        add(trace, "found", SYSTEM)
    assert [line.request_id for line in lines_of(path)] == ["found"]
    assert "No such file" in caplog.text


async def written_without_file(trace: RequestTrace) -> None:
    async with asyncio.timeout(60):
        while trace.num_lost == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the request trace .* cannot be written: Is a directory"):
        async with RequestTrace(tmp_path):
            raise AssertionError
