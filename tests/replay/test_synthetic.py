"""Traces that are made up have the statistics that they promise."""

from __future__ import annotations

import pytest

from dynamo._core.errors import InvalidArgument
from dynamo.replay import synthetic_trace, trace_stats


@pytest.mark.parametrize(
    ("name", "input_length", "output_length", "reusable", "requests_per_s"),
    [("conversation", 12_035, 343, 0.40, 12_031 / 3600), ("toolagent", 8_596, 182, 0.59, 23_608 / 3600)],
)
def test_a_trace_has_the_published_statistics(
    name: str, input_length: int, output_length: int, reusable: float, requests_per_s: float
) -> None:
    stats = trace_stats(synthetic_trace(name, 12_000))
    assert stats.input_length_mean == pytest.approx(input_length, rel=0.05)
    assert stats.output_length_mean == pytest.approx(output_length, rel=0.05)
    assert stats.reusable == pytest.approx(reusable, abs=0.02)
    assert stats.num_requests / stats.duration_s == pytest.approx(requests_per_s, rel=0.05)


def test_without_reuse_no_block_comes_twice() -> None:
    ids = [one for request in synthetic_trace("no-reuse", 200) for one in request.hash_ids]
    assert len(ids) == len(set(ids))


def test_a_system_prompt_that_is_shared_begins_every_prompt() -> None:
    requests = synthetic_trace("shared-system-prompt", 200)
    assert len({tuple(request.hash_ids[:8]) for request in requests}) == 1
    assert len({request.hash_ids[8] for request in requests}) == 200


def test_a_seed_gives_the_same_trace_each_time() -> None:
    assert synthetic_trace("conversation", 50, 1) == synthetic_trace("conversation", 50, 1)
    assert synthetic_trace("conversation", 50, 1) != synthetic_trace("conversation", 50, 2)


@pytest.mark.parametrize("name", ["conversation", "toolagent", "no-reuse", "shared-system-prompt"])
def test_requests_come_in_order_and_have_an_id_for_each_block(name: str) -> None:
    requests = synthetic_trace(name, 300)
    arrivals = [request.arrival_s for request in requests]
    assert arrivals == sorted(arrivals)
    assert all(len(one.hash_ids) == -(-one.input_length // one.block_size) for one in requests)


def test_a_name_that_is_unknown_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidArgument, match="there are conversation, toolagent, no-reuse, shared-system-prompt"):
        synthetic_trace("mystery", 1)
