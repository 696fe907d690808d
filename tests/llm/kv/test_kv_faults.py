"""Faults are counted by reason, and the log hears of each at most once a minute."""

from __future__ import annotations

import logging

import pytest

from dynamo._core.prefix_index import Applied
from dynamo.llm._kv_faults import Fault, Faults


def test_each_reason_is_told_once_a_minute_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [100.0]
    faults = Faults(logging.getLogger("dynamo.test"), "the index", lambda: now_s[0])
    for at_s in (100.0, 130.0, 159.0, 160.0, 161.0):
        now_s[0] = at_s
        faults.note(Fault.MALFORMED, 2, "an event is ignored")
    faults.note(Fault.SHORT_BLOCK, 1, "a block is left out")
    assert [record.getMessage() for record in caplog.records] == [
        "the index: an event is ignored (malformed, 2 so far)",
        "the index: an event is ignored (malformed, 8 so far)",
        "the index: a block is left out (short_block, 1 so far)",
    ]
    assert faults.counts == {"malformed": 10, "short_block": 1}


def test_what_did_not_happen_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults(logging.getLogger("dynamo.test"), "the index", lambda: 0.0)
    faults.note(Fault.MALFORMED, 0, "nothing")
    faults.note_unapplied(Applied(3))
    assert (faults.counts, caplog.records) == ({}, [])


def test_what_an_index_did_not_take_is_counted_by_its_reason() -> None:
    faults = Faults(logging.getLogger("dynamo.test"), "the index", lambda: 0.0)
    faults.note_unapplied(Applied(0, unknown_parent=1, unknown_blocks=2, full=3, malformed=4))
    assert faults.counts == {"unknown_parent": 1, "unknown_block": 2, "full": 3, "malformed": 4}
