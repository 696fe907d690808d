"""A context tells everyone who watches, once per change, and a token its children."""

from __future__ import annotations

import gc
import math

import pytest

from dynamo._core.context import CancellationToken, Context
from dynamo._core.errors import InvalidArgument


def test_a_watcher_hears_of_the_stop_and_of_the_kill() -> None:
    heard: list[bool] = []
    context = Context()
    context.watch(heard.append)
    for _ in range(2):
        context.stop_generating()
    for _ in range(2):
        context.kill()
    assert heard == [False, True]


def test_one_who_comes_late_hears_at_once() -> None:
    stopped, killed = Context(), Context()
    stopped.stop_generating()
    killed.kill()
    heard: list[bool] = []
    for context in (stopped, killed):
        context.watch(heard.append)
    assert heard == [False, True]
    stopped.kill()
    assert heard == [False, True, True]


def test_one_who_left_hears_nothing() -> None:
    heard: list[bool] = []
    context = Context()
    context.watch(heard.append)
    context.unwatch(heard.append)
    context.unwatch(heard.append)
    context.kill()
    assert heard == []


def test_a_watcher_that_fails_keeps_nobody_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bool] = []
    context = Context()
    context.watch(lambda killed: fail())
    context.watch(heard.append)
    context.kill()
    assert heard == [True]
    assert "ZeroDivisionError" in caplog.text


def test_a_token_cancels_its_children_whatever_one_of_them_does(caplog: pytest.LogCaptureFixture) -> None:
    token = CancellationToken()
    token.child_token().add_callback(fail)
    child = token.child_token()
    token.cancel()
    token.cancel()
    assert child.is_cancelled()
    assert "ZeroDivisionError" in caplog.text


def test_a_child_cancelled_alone_leaves_its_parent_and_is_forgotten() -> None:
    before = count_tokens()
    parent = CancellationToken()
    cancelled: list[str] = []
    for _ in range(3):
        child = parent.child_token()
        child.add_callback(lambda: cancelled.append("child"))
        child.cancel()
    assert not parent.is_cancelled()
    assert cancelled == ["child"] * 3
    del child
    assert count_tokens() == before + 1


def test_a_deadline_is_a_time() -> None:
    with pytest.raises(InvalidArgument, match="deadline"):
        Context(deadline=math.nan)


def fail() -> None:
    raise ZeroDivisionError


def count_tokens() -> int:
    gc.collect()
    return sum(type(thing) is CancellationToken for thing in gc.get_objects())
