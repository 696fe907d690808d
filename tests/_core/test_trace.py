"""Trace context: what is a trace and what is none, and spans that follow a request over its hops."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.context import Context, current_context, handling
from dynamo._core.limits import METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, TRACESTATE_CHARS_MAX
from dynamo._core.request_plane.base import check_request
from dynamo._core.trace import (
    Trace,
    parse_traceparent,
    parse_tracestate,
    trace_id_of,
    trace_metadata,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"

hexes = st.text("0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what the future will be like", True),
    ],
)
def test_a_traceparent_of_this_version_or_of_one_to_come_is_understood(text: str, is_sampled: bool) -> None:
    assert parse_traceparent(text) == (TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        PARENT + "-",
        PARENT + "-more",
        PARENT + "\n",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"00_{TRACE}_{SPAN}_01",
        PARENT.replace("0", "\N{ARABIC-INDIC DIGIT ZERO}"),
    ],
)
def test_any_other_is_as_good_as_none(text: str) -> None:
    assert parse_traceparent(text) is None
    assert trace_metadata([(b"traceparent", text.encode()), (b"tracestate", b"a=1")]) == {}


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("a=1", "a=1"),
        ("a=1 , \tb=2,,", "a=1,b=2"),
        ("fw529a3039@dt=FfZ,rojo=00f067aa0ba902b7", "fw529a3039@dt=FfZ,rojo=00f067aa0ba902b7"),
        ("a= 1", "a= 1"),
        ("", ""),
        ("a", ""),
        ("a=", ""),
        ("A=1", ""),
        ("a=1,b", ""),
        ("a=1,a=2", ""),
        ("a==1", ""),
        ("a=\x7f", ""),
        ("a=ü", ""),
        ("1=1", ""),
        ("a@b@c=1", ""),
        (",".join(f"k{number}=1" for number in range(33)), ""),
        ("a=" + "1" * 9000, ""),
    ],
)
def test_a_tracestate_is_handed_on_if_all_of_it_is_right(text: str, state: str) -> None:
    assert parse_tracestate(text) == state


def test_of_a_tracestate_that_is_too_long_whole_entries_go_the_long_ones_first() -> None:
    long, short = f"long={'x' * 200}", [f"k{number}={'x' * 100}" for number in range(6)]
    assert parse_tracestate(",".join([long, *short])) == ",".join(short[:4])


@given(st.text() | hexes.map(lambda text: f"00-{text}"), st.text())
def test_whatever_comes_is_parsed_and_what_is_handed_on_is_right(parent: str, state: str) -> None:
    metadata = trace_metadata([(b"traceparent", parent.encode()), (b"tracestate", state.encode())])
    assert len(parse_tracestate(state)) <= TRACESTATE_CHARS_MAX
    assert parse_tracestate(parse_tracestate(state)) == parse_tracestate(state)
    if metadata:
        assert parse_traceparent(metadata["traceparent"]) is not None


def test_two_traceparents_are_none_and_two_tracestates_are_one() -> None:
    headers = [(b"traceparent", f" {PARENT}\t".encode()), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    assert trace_metadata(headers) == {"traceparent": PARENT, "tracestate": "a=1,b=2"}
    assert trace_metadata([*headers, (b"traceparent", PARENT.encode())]) == {}


def test_each_hop_is_a_span_of_the_trace_below_the_one_before() -> None:
    first = Context(metadata={"traceparent": PARENT, "tracestate": "a=1", "tenant": "t"})
    second = Context("other", first.metadata)  # what the wire does
    for context, parent_id in ((first, SPAN), (second, first.trace.span_id)):
        trace = context.trace
        assert (trace.trace_id, trace.parent_id, trace.is_sampled, trace.state) == (TRACE, parent_id, True, "a=1")
        assert context.metadata == {"traceparent": trace.traceparent, "tracestate": "a=1", "tenant": "t"}
    assert len({SPAN, first.trace.span_id, second.trace.span_id}) == 3


def test_a_request_without_a_trace_carries_none_until_somebody_asks() -> None:
    context = Context()
    assert context.metadata == {}
    trace = context.trace
    assert trace is context.trace
    assert context.metadata == {"traceparent": trace.traceparent}
    assert (trace.parent_id, trace.is_sampled) == (None, False)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", trace.traceparent)


@pytest.mark.parametrize("request_id", [None, "mine", "", "0" * 32, "A" * 32, "\udc80", "ü" * 500])
def test_every_process_finds_the_same_trace_for_a_request_that_brought_none(request_id: str | None) -> None:
    here = Context(request_id)
    there = Context(here.request_id)
    assert here.trace.trace_id == there.trace.trace_id
    assert parse_traceparent(here.trace.traceparent) is not None


def test_the_id_of_a_request_of_ours_is_that_of_its_trace() -> None:
    context = Context()
    assert context.trace.trace_id == context.request_id
    assert trace_id_of("mine") != trace_id_of("yours")


def test_what_is_no_trace_in_the_metadata_is_replaced() -> None:
    context = Context("mine", {"traceparent": "hostile", "tracestate": "a=1"})
    assert context.metadata == {"traceparent": context.trace.traceparent}
    assert context.trace.trace_id == trace_id_of("mine")


def test_contexts_made_of_the_same_metadata_do_not_share_it() -> None:
    metadata = {"traceparent": PARENT}
    one, other = Context("one", metadata), Context("other", metadata)
    assert one.metadata != other.metadata
    assert one.trace.span_id != other.trace.span_id
    assert metadata == {"traceparent": PARENT}


@pytest.mark.parametrize(
    "metadata",
    [
        {"all": "x" * (METADATA_BYTES_MAX - 3)},
        {"all": "\u00fc" * ((METADATA_BYTES_MAX - 3) // 2)},
        {str(number): "" for number in range(METADATA_ENTRIES_MAX)},
    ],
    ids=["characters", "bytes", "entries"],
)
def test_a_request_whose_metadata_is_full_travels_without_its_trace(metadata: dict[str, str]) -> None:
    context = Context(metadata=metadata)
    assert context.trace.trace_id == context.request_id
    check_request(b"", context.request_id, context.metadata)


def test_a_request_is_the_current_one_while_it_is_handled_and_then_over() -> None:
    outer, inner = Context(), Context()
    with handling(outer):
        with handling(inner):
            assert current_context.get() is inner
        assert (inner.is_over, outer.is_over) == (True, False)
        assert current_context.get() is outer
    assert current_context.get() is None


def test_flags_that_mean_nothing_yet_are_not_handed_on() -> None:
    assert Context(metadata={"traceparent": f"00-{TRACE}-{SPAN}-ff"}).trace.traceparent.endswith("-01")
    assert Trace(TRACE, SPAN).traceparent.endswith("-00")
