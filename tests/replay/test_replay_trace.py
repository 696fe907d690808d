"""Traces as files, and the tokens that are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import InvalidArgument
from dynamo.replay import TracedRequest, read_trace, trace_stats, write_trace

MOONCAKE = b'{"timestamp": 27482, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 48]}\n'


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def test_a_trace_of_mooncake_is_read(tmp_path: Path) -> None:
    later = b'{"timestamp": 30482, "input_length": 600, "output_length": 1, "hash_ids": [46, 50]}\n'
    assert read_trace([written(tmp_path / "trace.jsonl", MOONCAKE, b"\n", later)]) == [
        TracedRequest(0.0, 1100, 52, [46, 47, 48], 512),
        TracedRequest(3.0, 600, 1, [46, 50], 512),
    ]


def test_several_files_are_one_trace_in_the_order_of_arrival(tmp_path: Path) -> None:
    early = b'{"timestamp": 26482, "input_length": 10, "output_length": 3, "hash_ids": []}\n'
    files = [written(tmp_path / "b.jsonl", MOONCAKE), written(tmp_path / "a.jsonl", early)]
    assert [(one.arrival_s, one.input_length) for one in read_trace(files)] == [(0.0, 10), (1.0, 1100)]


def test_a_line_says_how_many_tokens_its_blocks_have(tmp_path: Path) -> None:
    line = b'{"timestamp": 0, "input_length": 40, "output_length": 3, "hash_ids": [1, 2], "block_size": 16, "x": 1}\n'
    (request,) = read_trace([written(tmp_path / "trace.jsonl", line)])
    assert request.block_size == 16


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    requests = [TracedRequest(0.0, 1100, 52, [1, 2, 3]), TracedRequest(1.5, 8, 1, [], 4)]
    write_trace(tmp_path / "trace.jsonl", requests)
    assert read_trace([tmp_path / "trace.jsonl"]) == requests


def test_a_trace_with_times_in_another_unit_is_refused(tmp_path: Path) -> None:
    later = b'{"timestamp": 1785000000000000, "input_length": 10, "output_length": 1}\n'
    with pytest.raises(InvalidArgument, match=r"lasts 20,659,722 days, .*timestamps are in milliseconds"):
        read_trace([written(tmp_path / "trace.jsonl", MOONCAKE, later)])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{", r"trace.jsonl:2 is no request of a trace"),
        (b'{"timestamp": 0}', r"missing required field `input_length`"),
        (b'{"timestamp": 0, "input_length": 0, "output_length": 1, "hash_ids": []}', r"are no lengths of a request"),
        (b'{"timestamp": 0, "input_length": 100, "output_length": 1, "hash_ids": [1, 2, 3]}', r"0 blocks of 512"),
        (b'{"timestamp": 0, "input_length": 10, "output_length": 1, "block_size": 0}', r"block_size=0 are no lengths"),
    ],
)
def test_a_line_that_is_wrong_is_named(line: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=what):
        read_trace([written(tmp_path / "trace.jsonl", MOONCAKE, line + b"\n")])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"nothing\.jsonl cannot be read: No such file"):
        read_trace([tmp_path / "nothing.jsonl"])


def test_a_trace_without_requests_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="the trace is empty"):
        read_trace([written(tmp_path / "trace.jsonl", b"\n")])


@given(
    shared=st.integers(0, 4),
    own=st.integers(1, 3),
    other=st.integers(1, 3),
    block_size=st.integers(2, 40),
    cut=st.integers(0, 30),
)
def test_prompts_agree_exactly_as_far_as_their_ids_do(
    shared: int, own: int, other: int, block_size: int, cut: int
) -> None:
    def request(ids: list[int]) -> TracedRequest:
        return TracedRequest(0.0, len(ids) * block_size - min(cut, block_size - 1), 1, ids, block_size)

    prefix = list(range(shared))
    one = request(prefix + [100 + at for at in range(own)]).token_ids(0)
    two = request(prefix + [200 + at for at in range(other)]).token_ids(1)
    assert one[: shared * block_size] == two[: shared * block_size]
    assert one[shared * block_size :] != two[shared * block_size :] or block_size - cut < 4


def test_tokens_without_ids_are_nobody_elses() -> None:
    request = TracedRequest(0.0, 100, 1, [], 512)
    assert request.token_ids(0) != request.token_ids(1)
    assert request.token_ids(0) == request.token_ids(0)


def test_a_short_last_block_without_an_id_is_filled_up() -> None:
    request = TracedRequest(0.0, 1000, 1, [7], 512)
    assert len(request.token_ids(3)) == 1000


def test_what_could_be_reused_counts_leading_blocks_only() -> None:
    requests = [
        TracedRequest(0.0, 1024, 10, [1, 2]),
        TracedRequest(1.0, 1024, 20, [1, 3]),
        TracedRequest(2.0, 1024, 30, [4, 2]),
    ]
    stats = trace_stats(requests)
    assert (stats.num_requests, stats.duration_s, stats.output_length_mean) == (3, 2.0, 20.0)
    assert stats.reusable == 512 / 3072
