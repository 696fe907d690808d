"""What people construct of a worker's load: by position and by name, checked, and how it travels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dynamo._core.errors import InvalidArgument
from dynamo.llm import (
    ForwardPassMetrics,
    KvMetricsAggregator,
    KvMetricsPublisher,
    KvStats,
    SpecDecodeStats,
    WorkerMetricsPublisher,
    WorkerStats,
)
from dynamo.llm._contracts import wire_struct
from dynamo.llm._load_stats import LOAD_REPORT, LoadReport

STATS, CACHE = WorkerStats(0, 1), KvStats(1, 2)

counts = st.integers(0, 2**63 - 1)
shares = st.floats(0, 1)


def test_values_may_stand_in_order_or_by_name() -> None:
    assert WorkerStats(0, 1, 0, None) == WorkerStats(request_active_slots=0, request_total_slots=1)
    assert WorkerStats(0, 1, data_parallel_rank=3).data_parallel_rank == 3
    assert ForwardPassMetrics(STATS, CACHE).spec_decode_stats is None


@pytest.mark.parametrize(
    ("construct", "words"),
    [
        (lambda: WorkerStats(-1, 1), "WorkerStats: 'request_active_slots' is -1; it must be greater than"),
        (lambda: WorkerStats(1), "'request_total_slots' is missing"),  # type: ignore[call-arg]
        (lambda: WorkerStats("1", True), "'request_active_slots' is '1'.*'request_total_slots' is True"),  # type: ignore[arg-type]
        (lambda: WorkerStats(1, 2, 3, 1024), "'data_parallel_rank' is 1024; it must be less than or equal to 1023"),
        (lambda: WorkerStats(1, 2, num_waiting=3), "there is no 'num_waiting': did you mean 'num_requests_waiting'"),  # type: ignore[call-arg]
        (lambda: WorkerStats(1, 2, xyz=3), "there is no 'xyz': there are request_active_slots, "),  # type: ignore[call-arg]
        (lambda: KvStats(1, 2, 50.0), "'gpu_cache_usage_perc' is 50.0; it must be less than or equal to 1"),
        (lambda: KvStats(1, 2, 0.5, float("nan")), "'gpu_prefix_cache_hit_rate' is nan"),
        (lambda: SpecDecodeStats(num_accepted_tokens_per_pos=[1, -2]), r"'num_accepted_tokens_per_pos\[1\]' is -2"),
        (lambda: ForwardPassMetrics(STATS, None), "'kv_stats' is None; it must be"),  # type: ignore[arg-type]
        (lambda: ForwardPassMetrics(STATS, {"kv_active_blocks": 1}),  # type: ignore[arg-type]
         "KvStats: 'kv_total_blocks' is missing"),
        (lambda: KvMetricsPublisher().publish(1, 2, 3, 4, 5, 60.0, 0.7), "'gpu_cache_usage_perc' is 60.0"),
        (lambda: WorkerMetricsPublisher().publish(-1, 5), "'dp_rank' is -1; it must be a whole number, from 0 to 1023"),
        (lambda: WorkerMetricsPublisher().publish(1024, 5), "'dp_rank' is 1024"),
        (lambda: WorkerMetricsPublisher().publish(0, kv_used_blocks=-5), "'kv_used_blocks' is -5; .* 0 or more"),
        (lambda: WorkerMetricsPublisher().publish(0, 1.5), "'active_decode_blocks' is 1.5"),  # type: ignore[arg-type]
        (lambda: WorkerMetricsPublisher().publish(0), "publish what"),
        (lambda: WorkerMetricsPublisher().publish(ForwardPassMetrics(STATS, CACHE), 5), "leave out active_decode"),
        (lambda: WorkerMetricsPublisher().create_endpoint("ns.comp"), "'component' is 'ns.comp'; it must be the C"),  # type: ignore[arg-type]
        (lambda: KvMetricsAggregator("ns.comp"), "'component' is 'ns.comp'; it must be the C"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_with_its_value_and_what_is_allowed(
    construct: Callable[[], object], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        construct()


@pytest.mark.parametrize(
    ("construct", "words"),
    [
        (lambda: WorkerStats(1, 2, 3, 4, 5), "takes at most 4 values .*, not 5"),  # type: ignore[call-arg]
        (lambda: WorkerStats(1, 2, request_active_slots=3), "two values for 'request_active_slots'"),  # type: ignore[misc]
    ],
)
def test_too_many_values_are_what_they_are_to_any_function(construct: Callable[[], object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        construct()


def test_they_do_not_change_and_what_is_wrong_is_not_kept() -> None:
    with pytest.raises(ValueError, match="frozen"):
        STATS.request_active_slots = 5
    with pytest.raises(ValueError, match="'request_total_slots' is -1"):
        WorkerStats.model_validate({"request_active_slots": 0, "request_total_slots": -1})


@given(
    st.builds(
        ForwardPassMetrics,
        st.builds(WorkerStats, counts, counts, counts, st.none() | st.integers(0, 1023)),
        st.builds(KvStats, counts, counts, shares, shares),
        st.none()
        | st.builds(SpecDecodeStats, num_drafts=counts, num_accepted_tokens_per_pos=st.lists(counts, max_size=4)),
    )
)
def test_what_was_constructed_arrives_whatever_a_newer_peer_adds(load: ForwardPassMetrics) -> None:
    fields = LoadReport([load]).model_dump(mode="json")
    fields["ranks"][0]["kv_stats"]["of_a_newer_peer"] = fields["of_a_newer_peer"] = 1
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=LOAD_REPORT.struct)
    assert LOAD_REPORT.read(arrived) == LoadReport([load])


def test_what_is_out_of_range_does_not_arrive() -> None:
    fields = LoadReport([ForwardPassMetrics(STATS, CACHE)]).model_dump(mode="json")
    fields["ranks"][0]["kv_stats"]["gpu_cache_usage_perc"] = 12.0
    with pytest.raises(msgspec.ValidationError, match=r"<= 1.0 - at `\$.ranks\[0\].kv_stats.gpu_cache_usage_perc`"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=LOAD_REPORT.struct)


def test_what_has_no_wire_form_is_said_when_it_is_declared() -> None:
    class Mapped(BaseModel):
        names: dict[str, int]

    class Patterned(BaseModel):
        name: Annotated[str, Field(pattern="a+")]

    with pytest.raises(TypeError, match="has no wire form"):
        wire_struct(Mapped)
    with pytest.raises(TypeError, match="has no wire form"):
        wire_struct(Patterned)


def test_the_package_is_imported_without_pydantic() -> None:
    code = "import sys, dynamo.llm; assert 'pydantic' not in sys.modules; dynamo.llm.WorkerStats(0, 1)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
