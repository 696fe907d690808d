"""A stream of events is passed on as it is, cut behind whole ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.frontend._route.relay import EVENT_BYTES_MAX, WholeEvents

EVENT = st.sampled_from([b"data: 1\n\n", b"data: a\r\n\r\n", b": note\n\n", b"event: x\ndata: {}\n\n", b"data: [DONE]"])


@given(st.lists(EVENT), st.lists(st.integers(1, 12)))
def test_however_it_arrives_nothing_is_lost_and_only_whole_events_go_on(events: list[bytes], sizes: list[int]) -> None:
    stream, cutter, passed = b"".join(events), WholeEvents(), b""
    at = 0
    for size in [*sizes, len(stream)]:
        whole = cutter.feed(stream[at : at + size])
        assert not whole or whole.endswith((b"\n\n", b"\r\n\r\n"))
        passed += whole
        at += size
    assert passed + cutter.rest() == stream


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_a_whole_event_is_not_held(end: bytes) -> None:
    cutter = WholeEvents()
    assert cutter.feed(b"data: 1" + end) == b"data: 1" + end
    assert cutter.feed(b"data: 2" + end + b"data") == b"data: 2" + end
    assert cutter.rest() == b"data"


def test_an_event_that_does_not_end_is_held_up_to_a_limit() -> None:
    cutter = WholeEvents()
    assert cutter.feed(b"x" * EVENT_BYTES_MAX) == b""
    assert len(cutter.feed(b"x")) == EVENT_BYTES_MAX + 1
