"""For every n: a task that fails, or is cancelled, at its n-th await leaves nothing behind, and others go on."""

from __future__ import annotations

import pytest
from tests.sim.interrupt import How, What, interrupt

WHATS: tuple[What, ...] = ("http", "http complete", "call", "handler", "worker", "frontend", "caller")
HOWS: tuple[How, ...] = ("fails", "is cancelled")
AWAITS_MIN = 5


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", WHATS)
def test_a_task_may_be_interrupted_at_each_of_its_awaits(what: What, how: How) -> None:
    undisturbed = interrupt(what, how, 0)
    assert undisturbed.wrongs == []
    assert undisturbed.num_awaits >= AWAITS_MIN
    wrongs = {n: interrupt(what, how, n).wrongs for n in range(1, undisturbed.num_awaits + 1)}
    assert {n: found for n, found in wrongs.items() if found} == {}
