"""Which instances are passed over: never all, rarely many, and none for long without a try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dynamo.runtime._quarantine import PROBE_AFTER_MAX_S, PROBE_AFTER_S, PROBE_TIMEOUT_S, Fault, Quarantine

IDS = [1, 2, 3, 4, 5]
ids = st.sampled_from(IDS)
faults = st.sampled_from(list(Fault))


def out(quarantine: Quarantine, now: float, among: list[int] = IDS) -> set[int]:
    return set(among) - set(quarantine.usable(among, now))


def test_an_instance_that_was_at_fault_is_passed_over_until_its_probe() -> None:
    quarantine = Quarantine()
    assert quarantine.note_fault(1, Fault.LOST, 10.0)
    assert out(quarantine, 10.0 + PROBE_AFTER_S - 0.001) == {1}
    assert out(quarantine, 10.0 + PROBE_AFTER_S) == set()


def test_one_request_probes_and_the_others_stay_away() -> None:
    quarantine = Quarantine()
    quarantine.note_fault(1, Fault.LOST, 0.0)
    assert quarantine.begin(1, 1.0)
    assert not quarantine.begin(1, 1.0)
    assert out(quarantine, 1.0) == {1}


def test_an_answer_frees() -> None:
    quarantine = Quarantine()
    quarantine.note_fault(1, Fault.STALLED, 0.0)
    mark = quarantine.mark
    assert quarantine.begin(1, 1.0)
    quarantine.note_answer(1, mark)
    assert out(quarantine, 1.0) == set()
    assert 1 not in quarantine


def test_an_answer_to_a_request_that_was_sent_before_the_fault_says_nothing() -> None:
    quarantine = Quarantine()
    mark = quarantine.mark
    quarantine.note_fault(1, Fault.LOST, 0.0)
    quarantine.note_answer(1, mark)
    assert quarantine.out[1].fault is Fault.LOST


def test_every_probe_that_fails_doubles_the_time_to_the_next_up_to_a_limit() -> None:
    quarantine, now, waits = Quarantine(), 0.0, []
    quarantine.note_fault(1, Fault.UNREACHABLE, now)
    for _ in range(6):
        begun = now
        while not quarantine.begin(1, now):
            now += 0.125
        waits.append(now - begun)
        quarantine.note_fault(1, Fault.UNREACHABLE, now, is_probe=True)
    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_many_requests_that_one_loss_ends_count_once() -> None:
    quarantine = Quarantine()
    assert [quarantine.note_fault(1, Fault.LOST, 0.0) for _ in range(100)] == [True] + [False] * 99
    assert quarantine.begin(1, PROBE_AFTER_S)


def test_of_those_that_were_lost_no_more_than_half_are_passed_over_and_the_latest_stay() -> None:
    quarantine = Quarantine()
    for id in (5, 3, 1, 2):
        quarantine.note_fault(id, Fault.LOST, 0.0)
    assert out(quarantine, 0.1) == {1, 2}


def test_any_number_of_those_that_cannot_be_connected_to_is_passed_over_but_not_all() -> None:
    quarantine = Quarantine()
    for id in IDS[:4]:
        quarantine.note_fault(id, Fault.UNREACHABLE, 0.0)
    assert out(quarantine, 0.1) == {1, 2, 3, 4}
    quarantine.note_fault(5, Fault.LOST, 0.0)
    assert out(quarantine, 0.1) == {1, 2, 3, 4}
    quarantine.note_fault(5, Fault.UNREACHABLE, 0.0)
    assert quarantine.usable(IDS, 0.1) == IDS


def test_a_process_that_lives_is_freed_unless_it_had_stalled() -> None:
    quarantine = Quarantine()
    quarantine.note_fault(1, Fault.LOST, 0.0)
    quarantine.note_fault(2, Fault.STALLED, 0.0)
    for id in (1, 2):
        quarantine.note_life(id, quarantine.mark)
    assert (1 in quarantine, 2 in quarantine) == (False, True)


def test_a_probe_that_is_called_off_makes_room_for_the_next() -> None:
    quarantine = Quarantine()
    quarantine.note_fault(1, Fault.LOST, 0.0)
    assert quarantine.begin(1, 1.0)
    quarantine.give_up_probe(1, 1.5)
    assert quarantine.begin(1, 1.5)


def test_a_probe_of_which_nothing_is_heard_makes_room_for_the_next() -> None:
    quarantine = Quarantine()
    quarantine.note_fault(1, Fault.LOST, 0.0)
    assert quarantine.begin(1, 1.0)
    assert not quarantine.begin(1, 1.0 + PROBE_TIMEOUT_S - 0.1)
    assert quarantine.begin(1, 1.0 + PROBE_TIMEOUT_S)


def test_an_instance_that_comes_anew_is_as_good_as_any() -> None:
    quarantine = Quarantine()
    quarantine.note_fault(1, Fault.UNREACHABLE, 0.0)
    quarantine.forget(1)
    quarantine.forget(2)
    assert quarantine.usable(IDS, 0.0) is IDS


@given(st.lists(st.tuples(ids, faults), max_size=20), st.lists(ids, unique=True, max_size=5).map(sorted))
def test_whoever_was_at_fault_somebody_is_usable(history: list[tuple[int, Fault]], alive: list[int]) -> None:
    quarantine = Quarantine()
    for id, fault in history:
        quarantine.note_fault(id, fault, 0.0)
    usable = quarantine.usable(alive, 0.1)
    assert bool(usable) == bool(alive)
    assert usable == [id for id in alive if id in usable]


class Histories(RuleBasedStateMachine):
    """Faults, probes, answers and departures in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.quarantine = Quarantine()
        self.now = 0.0
        self.probes: dict[int, float] = {}  # who is probed, and since when

    @rule(seconds=st.floats(0.0, 15.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(id=ids)
    def send(self, id: int) -> None:
        if self.quarantine.begin(id, self.now):
            begun_at = self.probes.get(id)
            assert begun_at is None or self.now - begun_at >= PROBE_TIMEOUT_S - 1e-6, "one probe at a time"
            self.probes[id] = self.now

    @rule(id=ids, fault=faults)
    def fail(self, id: int, fault: Fault) -> None:
        self.quarantine.note_fault(id, fault, self.now)

    @precondition(lambda self: self.probes)
    @rule(data=st.data(), fault=faults)
    def fail_probe(self, data: st.DataObject, fault: Fault) -> None:
        id = data.draw(st.sampled_from(sorted(self.probes)))
        del self.probes[id]
        self.quarantine.note_fault(id, fault, self.now, is_probe=True)

    @precondition(lambda self: self.probes)
    @rule(data=st.data())
    def call_off_probe(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.probes)))
        del self.probes[id]
        self.quarantine.give_up_probe(id, self.now)

    @rule(id=ids)
    def answer(self, id: int) -> None:
        self.quarantine.note_answer(id, self.quarantine.mark)
        self.probes.pop(id, None)
        assert id in self.quarantine.usable(IDS, self.now)

    @rule(id=ids)
    def leave(self, id: int) -> None:
        self.quarantine.forget(id)
        self.probes.pop(id, None)

    @invariant()
    def somebody_is_usable(self) -> None:
        assert self.quarantine.usable(IDS, self.now)

    @invariant()
    def only_the_unreachable_are_more_than_half(self) -> None:
        passed_over = out(self.quarantine, self.now)
        unreachable = {id for id in passed_over if self.quarantine.out[id].fault is Fault.UNREACHABLE}
        assert len(passed_over) <= max(len(IDS) // 2, len(unreachable))

    @invariant()
    def nobody_is_passed_over_for_long(self) -> None:
        later = self.now + max(PROBE_AFTER_MAX_S, PROBE_TIMEOUT_S) + 1e-6
        assert self.quarantine.usable(IDS, later) == IDS

    @invariant()
    def only_who_was_at_fault_is_out(self) -> None:
        assert all(id in self.quarantine for id in out(self.quarantine, self.now))


TestHistories = pytest.mark.filterwarnings("default")(Histories.TestCase)
