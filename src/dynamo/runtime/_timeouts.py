"""How long a caller waits for the items of a stream, and the one timer that sees to it.

A deadline says when a request must be over, and travels with it. These limits are the caller's own: how long it
waits for the first item, and for each later one. Nothing is done for an item: a timer of the client looks now and
then at all of its streams, and counts in how many turns the same wait went on. It counts turns and not seconds,
because a loop that was blocked, or a machine that slept, has yet to read what came meanwhile. So a stream is
given up after its limit and at most two turns more.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamo._core.errors import ConfigError
from dynamo._core.stability import stable
from dynamo.runtime._arguments import wrong_type

if TYPE_CHECKING:
    from dynamo.runtime._call import Call

FIRST_ITEM_VARIABLE, INTER_ITEM_VARIABLE = "DYN_FIRST_ITEM_TIMEOUT_S", "DYN_INTER_ITEM_TIMEOUT_S"

FIRST_ITEM_TIMEOUT_S = 120.0
INTER_ITEM_TIMEOUT_S = 30.0
#: The timer looks so often within the shorter of the limits, and at least once in `TURN_MAX_S`.
TURNS_PER_LIMIT = 10
TURN_MAX_S = 1.0


@stable(since="0.1")
@dataclass(frozen=True, slots=True)
class StreamTimeouts:
    """How long to wait for the first item of a stream, and for each later one, in seconds; None is for ever.

    Without more said that is `first_item_s` 120 and `inter_item_s` 30.

    Raises `ConfigError` for a limit that is not more than 0.
    """

    first_item_s: float | None = FIRST_ITEM_TIMEOUT_S
    inter_item_s: float | None = INTER_ITEM_TIMEOUT_S

    def __post_init__(self) -> None:
        for name, limit_s in (("first_item_s", self.first_item_s), ("inter_item_s", self.inter_item_s)):
            if limit_s is not None and (not isinstance(limit_s, int | float) or isinstance(limit_s, bool)):
                raise wrong_type(name, limit_s, "seconds, more than 0, or None for no limit")
            if limit_s is not None and not 0 < limit_s < math.inf:
                raise ConfigError(f"{name} is {limit_s}: it must be more than 0, or None for no limit", setting=name)


def timeouts_from_env(environ: Mapping[str, str]) -> StreamTimeouts:
    """Read the variables; 0 is no limit. Raises `ConfigError` if one is wrong."""
    return StreamTimeouts(
        _limit(environ, FIRST_ITEM_VARIABLE, FIRST_ITEM_TIMEOUT_S),
        _limit(environ, INTER_ITEM_VARIABLE, INTER_ITEM_TIMEOUT_S),
    )


def _limit(environ: Mapping[str, str], variable: str, default_s: float) -> float | None:
    text = environ.get(variable)
    if not text:
        return default_s
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = math.nan
    if not 0 <= limit_s < math.inf:
        raise ConfigError(f"{variable}={text!r} is no time: give seconds, or 0 for no limit", setting=variable)
    return limit_s or None


class StreamWatch:
    """Looks after the open streams of one client: which wait in vain, or were lost, and which instances give items.

    `on_turn` is called in each turn. There are turns as long as streams are open, and one more.
    """

    def __init__(self, timeouts: StreamTimeouts, on_turn: Callable[[], None]) -> None:
        self.timeouts = timeouts
        self._on_turn = on_turn
        limits = [limit_s for limit_s in (timeouts.first_item_s, timeouts.inter_item_s) if limit_s is not None]
        self.turn_s: float = min([TURN_MAX_S, *(limit_s / TURNS_PER_LIMIT for limit_s in limits)])
        #: What happened so many turns ago is forgotten: no stream that waits has waited for so long.
        self._turns_kept = 2 + int(max(limits, default=0.0) / self.turn_s)
        #: How many turns there were, and the last one in which each instance gave an item.
        self.turn: int = 0
        self.moved: dict[int, int] = {}
        # The streams that are open, in the order in which they were opened.
        self._calls: dict[Call, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        """Look after a stream until it is removed."""
        self._calls[call] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.turn_s, self._look)

    def remove(self, call: Call) -> bool:
        """The stream has ended. Return whether it was looked after until now."""
        return self._calls.pop(call, call) is None

    def _look(self) -> None:
        """Take a turn. When no stream is left the timer rests: a client that nobody uses wakes nobody."""
        self._timer = None
        self._on_turn()
        if not self._calls:
            return
        self._timer = asyncio.get_running_loop().call_later(self.turn_s, self._look)
        self.turn += 1
        if self.turn % self._turns_kept == 0:
            self.moved = {id: turn for id, turn in self.moved.items() if turn >= self.turn - self._turns_kept}
        waiting = []
        for call in list(self._calls):  # the garbage collector may remove one meanwhile
            if not call.is_waiting:
                call.note_unread()
            if call.waits != call.waits_seen:
                call.waits_seen, call.turns_waited = call.waits, 0
                if call.has_begun:
                    self.moved[call.instance_id] = self.turn
            elif call.is_waiting:
                call.turns_waited += 1
                waiting.append(call)
        for call in waiting:
            self._judge(call)

    def _judge(self, call: Call) -> None:
        waited_s = call.turns_waited * self.turn_s
        limit_s = self.timeouts.inter_item_s if call.has_begun else self.timeouts.first_item_s
        if limit_s is not None and waited_s >= limit_s:
            # Whoever gave somebody else an item since this one began to wait is slow with it, and not stuck.
            is_stuck = self.turn - self.moved.get(call.instance_id, -1) >= call.turns_waited
            call.stall(limit_s, is_stuck=is_stuck)
        else:
            call.note_waiting(waited_s)
