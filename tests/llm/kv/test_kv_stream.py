"""Events of one publisher, put in order: whatever is lost, repeated or late, what is applied is what was said."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_events import EVENT_WEIGHT, Cleared, KvEvent, KvEventBatch, Removed, hashes_to_bytes
from dynamo.llm._kv_query import KvAnswer
from dynamo.llm._kv_stream import HELD_WEIGHT_MAX, Forget, KvStream

WORKER = WorkerKey(7, 1)
OLD, NEW = 100, 200


def event(number: int) -> KvEvent:
    return Removed(hashes_to_bytes(array("Q", [number])))


def batch(first: int, last: int, epoch: int = OLD) -> KvEventBatch:
    """The events from one number to another; `batch(5, 4)` says that the next one is 5."""
    return KvEventBatch(*WORKER, 7, 16, epoch, first, [event(number) for number in range(first, last + 1)])


def dump(event_id: int, epoch: int = OLD, *, is_first: bool = True, is_last: bool = True) -> KvAnswer:
    return KvAnswer(*WORKER, 16, epoch, event_id, True, is_first, is_last, [event(0)])


def missing(first: int, last: int, epoch: int = OLD) -> KvAnswer:
    one = batch(first, last, epoch)
    return KvAnswer(*WORKER, 16, epoch, first, False, True, True, one.events)


def numbers(events: Iterator[KvEvent | Forget]) -> list[int | None]:
    """The numbers of events; None: all is to be forgotten."""
    return [None if isinstance(one, Cleared | Forget) else array("Q", one.block_hashes)[0] for one in events]


def synced(event_id: int = 0, epoch: int = OLD) -> KvStream:
    stream = KvStream(WORKER)
    stream.ask()
    assert numbers(stream.answer(dump(event_id, epoch))) == [None, 0]
    return stream


def test_nothing_is_applied_before_the_publisher_was_asked() -> None:
    stream = KvStream(WORKER)
    assert stream.is_behind
    assert stream.known() is None
    assert numbers(stream.take(batch(4, 6))) == []
    stream.ask()
    assert numbers(stream.answer(dump(5))) == [None, 0, 6]
    assert not stream.is_behind
    assert stream.num_duplicates == 0


def test_events_in_order_are_applied_once() -> None:
    stream = synced(3)
    assert numbers(stream.take(batch(4, 6))) == [4, 5, 6]
    assert numbers(stream.take(batch(5, 7))) == [7]
    assert numbers(stream.take(batch(4, 6))) == []
    assert stream.num_duplicates == 5
    assert not stream.is_behind


def test_a_gap_is_filled_before_what_comes_after_it() -> None:
    stream = synced(3)
    assert numbers(stream.take(batch(6, 7))) == []
    assert stream.is_behind
    assert stream.num_missed == 2
    known = stream.known()
    assert known is not None
    assert (known.epoch, known.event_id) == (OLD, 3)
    stream.ask()
    assert numbers(stream.take(batch(8, 8))) == []
    assert numbers(stream.answer(missing(4, 7))) == [4, 5, 6, 7, 8]
    assert not stream.is_behind


def test_a_count_without_events_shows_a_loss() -> None:
    stream = synced(3)
    assert numbers(stream.take(batch(4, 3))) == []
    assert not stream.is_behind
    assert numbers(stream.take(batch(5, 4))) == []
    assert stream.is_behind


def test_another_epoch_is_believed_when_the_publisher_says_so() -> None:
    stream = synced(3)
    assert numbers(stream.take(batch(1, 2, NEW))) == []
    stream.ask()
    assert numbers(stream.answer(dump(1, NEW))) == [None, 0, 2]
    assert stream.epoch == NEW
    assert numbers(stream.take(batch(4, 5, OLD))) == []
    assert not stream.is_behind
    assert stream.num_wrong_epoch == 2


def test_an_epoch_that_begins_while_the_publisher_answers_is_asked_about() -> None:
    stream = synced(3)
    assert numbers(stream.take(batch(6, 6))) == []
    stream.ask()
    assert numbers(stream.take(batch(1, 1, NEW))) == []
    assert numbers(stream.answer(missing(4, 6))) == [4, 5, 6]
    assert stream.is_behind
    stream.ask()
    assert numbers(stream.answer(dump(0, NEW))) == [None, 0, 1]
    assert not stream.is_behind


def test_an_answer_that_breaks_off_is_asked_for_anew() -> None:
    stream = synced(3)
    stream.doubt()
    stream.ask()
    assert numbers(stream.answer(dump(9, is_last=False))) == [None, 0]
    assert stream.is_behind
    assert stream.known() is None


def test_what_waits_for_an_answer_is_bounded_and_asked_for_again() -> None:
    stream = KvStream(WORKER)
    stream.ask()
    size = HELD_WEIGHT_MAX // EVENT_WEIGHT // 4
    for number in range(6):
        assert numbers(stream.take(batch(1 + number * size, (number + 1) * size))) == []
    applied = numbers(stream.answer(dump(0)))
    assert applied[:2] == [None, 0]
    assert stream.is_behind
    assert stream.known() is not None


class Truth:
    """A publisher that says its numbers in order, and starts anew."""

    def __init__(self) -> None:
        self.epoch = 1
        self.said: list[int] = []

    def answer(self, stream: KvStream) -> KvAnswer:
        known = stream.known()
        if known is not None and known.epoch == self.epoch:
            events = [event(number) for number in self.said[known.event_id :]]
            return KvAnswer(*WORKER, 16, self.epoch, known.event_id + 1, False, True, True, events)
        events = [event(number) for number in self.said]
        return KvAnswer(*WORKER, 16, self.epoch, len(self.said), True, True, True, events)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["say", "say", "say", "restart", "deliver", "deliver", "ask", "answer"]), st.randoms()
        ),
        max_size=60,
    )
)
@settings(deadline=None, max_examples=200)
def test_whatever_is_delivered_when_the_end_is_the_truth(steps: list[tuple[str, object]]) -> None:
    truth, stream = Truth(), KvStream(WORKER)
    wire: list[KvEventBatch] = []
    applied: list[int] = []
    answer: KvAnswer | None = None
    count = 0

    def apply(events: Iterator[KvEvent | Forget]) -> None:
        for number in numbers(events):
            if number is None:
                applied.clear()
            else:
                applied.append(number)

    for step, rng in steps:
        if step == "say":
            count += 1
            truth.said.append(count)
            wire.append(KvEventBatch(*WORKER, 7, 16, truth.epoch, len(truth.said), [event(count)]))
        elif step == "restart":
            truth.epoch += 1
            truth.said.clear()
        elif step == "deliver" and wire:  # any of them, in any order, again and again
            apply(stream.take(rng.choice(wire)))  # type: ignore[attr-defined]
        elif step == "ask" and answer is None:
            stream.ask()
            answer = truth.answer(stream)
        elif step == "answer" and answer is not None:
            apply(stream.answer(answer))
            answer = None
    if answer is not None:
        apply(stream.answer(answer))
    # The faults are over: the count is heard, and what is missing is asked for.
    apply(stream.take(KvEventBatch(*WORKER, 7, 16, truth.epoch, len(truth.said) + 1, [])))
    for _ in range(4):
        if stream.is_behind:
            stream.ask()
            apply(stream.answer(truth.answer(stream)))
    assert not stream.is_behind
    assert applied == truth.said
