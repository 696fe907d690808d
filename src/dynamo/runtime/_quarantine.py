"""Which instances of an endpoint are passed over, and when they are tried again.

An instance that could not be reached, was lost or stalled is out. After `PROBE_AFTER_S`, doubling to
`PROBE_AFTER_MAX_S` with each probe that fails, one single request tries it: the probe. An answer frees it.

Being out is advice, and a wrong advice must not take an endpoint down. An instance that cannot be connected to,
or says that it takes nothing, certainly serves nobody, so any number of those are passed over. One that was lost
or stalled may be well again, and a pause of this very process looks like the loss of all of them: together with
the unreachable ones, no more than half are passed over. Never are all of them.

There is no clock and no socket in it: time is passed in, and what happened is told by the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: An instance is out for so long before the first probe,
PROBE_AFTER_S = 0.5
#: and for at most so long before a later one.
PROBE_AFTER_MAX_S = 5.0
#: A probe of which nothing more is heard makes room for the next after so long.
PROBE_TIMEOUT_S = 12.0


class Fault(StrEnum):
    """Why an instance is out."""

    UNREACHABLE = "unreachable"  # no connection, or it says that it takes no request
    LOST = "lost"  # the connection broke, or fell silent, while requests ran
    STALLED = "stalled"  # it is connected, and gives nobody an item


@dataclass(slots=True)
class _Out:
    """An instance that is out."""

    fault: Fault
    noted: int  # the mark at which it was last at fault
    probe_after_s: float
    probe_at: float  # not before this time
    probing: bool = False  # since `probe_at` was last set, one request tries it


class Quarantine:
    """The instances of one endpoint that are out."""

    def __init__(self) -> None:
        #: Those that are out; empty, which is asked for every request, if all is well.
        self.out: dict[int, _Out] = {}
        #: Counts the faults: a request that began at a mark knows which faults came after it.
        self.mark: int = 0

    def __contains__(self, id: int) -> bool:
        return id in self.out

    def usable(self, ids: list[int], now: float) -> list[int]:
        """Return those of `ids` that a request may go to, in the same order: at least one, if there is one.

        `ids` itself is returned if nobody is out. An instance that waits for its probe is among them.
        """
        if not self.out:
            return ids
        resting = [id for id in ids if id in self.out and now < self.out[id].probe_at]
        hidden = {id for id in resting if self.out[id].fault is Fault.UNREACHABLE}
        doubtful = sorted((id for id in resting if id not in hidden), key=self._newest_fault_first)
        hidden.update(doubtful[: max(0, len(ids) // 2 - len(hidden))])
        return [id for id in ids if id not in hidden] or ids

    def _newest_fault_first(self, id: int) -> int:
        return -self.out[id].noted

    def begin(self, id: int, now: float) -> bool:
        """A request goes to an instance. Return whether it is the probe; until its end there is no other."""
        out = self.out.get(id)
        if out is None or now < out.probe_at:
            return False
        out.probing = True
        out.probe_at = now + PROBE_TIMEOUT_S
        return True

    def note_fault(self, id: int, fault: Fault, now: float, *, is_probe: bool = False) -> bool:
        """An instance was at fault in a request, which may be its probe. Return whether it was not out before.

        The many requests that one loss ends count once: only a probe that fails makes the next one wait longer.
        """
        self.mark += 1
        out = self.out.get(id)
        if out is None:
            self.out[id] = _Out(fault, self.mark, PROBE_AFTER_S, now + PROBE_AFTER_S)
            return True
        out.noted = self.mark
        out.fault = fault
        if is_probe:
            out.probe_after_s = min(2 * out.probe_after_s, PROBE_AFTER_MAX_S)
            out.probe_at = now + out.probe_after_s
            out.probing = False
        return False

    def note_answer(self, id: int, mark: int) -> None:
        """An instance has answered a request that was sent at `mark`. An answer older than its fault says nothing."""
        out = self.out.get(id)
        if out is not None and out.noted <= mark:
            del self.out[id]

    def note_life(self, id: int, mark: int) -> None:
        """The connection to an instance has carried a request for so long that its process must be alive.

        That frees it unless it had stalled: a process whose engine is stuck is alive, too.
        """
        out = self.out.get(id)
        if out is not None and out.fault is not Fault.STALLED:
            self.note_answer(id, mark)

    def give_up_probe(self, id: int, now: float) -> None:
        """The probe was called off, and says nothing: the next request may be it."""
        out = self.out.get(id)
        if out is not None and out.probing:
            out.probing = False
            out.probe_at = now

    def forget(self, id: int) -> None:
        """An instance has left, or has come anew."""
        self.out.pop(id, None)
