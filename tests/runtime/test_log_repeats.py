"""Lines that repeat are counted beyond a limit, and every one that is left out is told of."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from dynamo.runtime._log_repeats import TEMPLATES_MAX, Repeats


class Clock:
    """A clock that stands still until it is told to go."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(message: str = "failed: %s", name: str = "dynamo.llm", level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file.py", 1, message, ("why",), None)


def told(records: list[logging.LogRecord]) -> list[str]:
    return [one.getMessage() for one in records]


def test_beyond_the_limit_lines_of_one_template_are_left_out_and_counted_once() -> None:
    clock = Clock()
    repeats = Repeats(clock, lines_per_window=2, window_s=10.0)
    assert [repeats.admits(record()) for _ in range(5)] == [True, True, False, False, False]
    assert repeats.admits(record("another"))
    assert repeats.admits(record(name="dynamo.runtime"))
    assert repeats.due() == []
    clock.now = 10.0
    [line] = repeats.due()
    assert line.getMessage() == "3 lines like 'failed: %s' were left out"
    assert (line.name, line.levelno) == ("dynamo.llm", logging.WARNING)
    assert repeats.due() == repeats.rest() == []
    assert repeats.admits(record())


def test_the_first_line_that_is_left_out_is_announced() -> None:
    repeats = Repeats(Clock(), lines_per_window=1)
    begun = []
    for _ in range(3):
        if not repeats.admits(record()):
            begun.append(repeats.has_just_begun(record()))
    assert begun == [True, False]
    assert repeats.announcement(record()).getMessage() == "more lines like 'failed: %s' are counted for now"


def test_the_lines_of_applications_and_those_for_debugging_are_not_limited() -> None:
    repeats = Repeats(Clock(), lines_per_window=1)
    for one in (record(name="app"), record(name="dynamo_app"), record(level=logging.DEBUG)):
        assert all(repeats.admits(one) for _ in range(5))


def test_what_is_counted_is_bounded_and_the_rest_is_written() -> None:
    repeats = Repeats(Clock(), lines_per_window=1)
    for number in range(TEMPLATES_MAX):
        assert repeats.admits(record(f"message {number}"))
    assert all(repeats.admits(record("one more")) for _ in range(5))
    assert not repeats.admits(record("message 0"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 8)), max_size=200))
def test_every_line_is_written_or_told_of(lines: list[tuple[str, float]]) -> None:
    clock = Clock()
    repeats = Repeats(clock, lines_per_window=3, window_s=10.0)
    written, left_out = 0, 0
    for message, pause_s in lines:
        clock.now += pause_s
        left_out += sum(int(line.split()[0]) for line in told(repeats.due()))
        written += repeats.admits(record(message))
    left_out += sum(int(line.split()[0]) for line in told(repeats.rest()))
    assert written + left_out == len(lines)
