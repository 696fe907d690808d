"""The workers of one plan: started together, kept running, and ended in order.

`dynamo serve` has one generation; while it reloads, the next one starts beside it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Sequence
from functools import partial

from dynamo._core.errors import ConfigError
from dynamo.sdk._console import Console
from dynamo.sdk._plan import Plan, PlannedService
from dynamo.sdk._process import PROGRESS_S
from dynamo.sdk._slot import Loss, RestartPolicy, Slot, Worker
from dynamo.sdk._status import START_TIMEOUT_S, Failed, Starting

#: How long an orderly end may take, for all workers together, before they are killed.
STOP_TIMEOUT_S = 30.0
#: How long the kernel may take to end a killed process.
KILL_TIMEOUT_S = 5.0
#: A start that takes longer says which services are ready already.
QUIET_START_S = 2.0

#: Makes the process of worker `number`, from 1, of a service; it calls what it is given when it has news.
Launch = Callable[[PlannedService, int, Callable[[], None]], Worker]


class Generation:
    """Owns the worker processes of one plan: `start`, `check` whenever something changes, then `stop`."""

    def __init__(
        self,
        plan: Plan,
        launch: Launch,
        console: Console,
        on_change: Callable[[], None],
        policy: RestartPolicy | None,
    ) -> None:
        """Without a `policy` what ends by itself is not started again."""
        self.plan = plan
        self._launch = launch
        self._console = console
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._slots_of = {
            service.name: [self._slot(service, number, policy) for number in range(1, service.workers + 1)]
            for service in plan.services
        }
        self._slots = [slot for slots in self._slots_of.values() for slot in slots]
        # The mutable state: the tasks that fill the slots, whether all is to end at once, why it cannot go
        # on, and what was told, by whom, so that what makes several workers end is told once.
        self._tasks: list[asyncio.Task[None]] = []
        self._forced = False
        self._failure: str | None = None
        self._told: dict[Slot, str] = {}

    def _slot(self, service: PlannedService, number: int, policy: RestartPolicy | None) -> Slot:
        return Slot(service.name, number, lambda on_change: self._launch(service, number, on_change), self, policy)

    # Start.

    async def start(self, began: float) -> None:
        """Return when all workers are ready. Raises `ConfigError` if one fails.

        `began` is when the user began to wait, by the clock of the loop.
        """
        self._tasks = [asyncio.create_task(slot.run(), name=slot.label) for slot in self._slots]
        clock = asyncio.get_running_loop().time
        deadline = clock() + START_TIMEOUT_S
        quiet_until, progress_at = began + QUIET_START_S, clock() + PROGRESS_S
        told_ready: set[str] = set()
        while not all(slot.is_ready for slot in self._slots):
            await self._raise_failed_start(deadline)
            if clock() > deadline:
                raise ConfigError(f"not ready after {START_TIMEOUT_S:.0f} s: {self._waiting_for()}")
            if clock() >= quiet_until:
                self._tell_ready_services(told_ready)
            if clock() >= progress_at:
                progress_at = clock() + PROGRESS_S
                self._console.say(f"still starting: {self._waiting_for()}")
            await self._wait_for_change((quiet_until if clock() < quiet_until else progress_at) - clock())
        for slot in self._slots:
            slot.in_service = True

    async def _raise_failed_start(self, deadline: float) -> None:
        for slot in self._slots:
            if not slot.runs or isinstance(slot.worker.report, Failed):
                await self._until_ended([slot], deadline)  # so that all it prints stands before our line
                self._told[slot] = slot.worker.how_it_ended
                raise ConfigError(f"{slot.label} failed to start: {slot.worker.how_it_ended}")

    def _tell_ready_services(self, told: set[str]) -> None:
        for service in self.plan.services:
            if service.name not in told and all(slot.is_ready for slot in self._slots_of[service.name]):
                told.add(service.name)
                self._console.say(f"{counted(service)} ready")

    def _waiting_for(self) -> str:
        reports = [(slot.label, slot.worker.report) for slot in self._slots]
        return ", ".join(f"{label} ({report.phase})" for label, report in reports if isinstance(report, Starting))

    # Run.

    def check(self) -> None:
        """Raise `ConfigError` if a service has no worker left that runs or comes back."""
        for task in self._tasks:
            if task.done():
                task.result()
        if self._failure is not None:
            raise ConfigError(self._failure)

    def changed(self) -> None:
        self._changed.set()
        self._on_change()

    def lost(self, slot: Slot, loss: Loss) -> None:
        if not slot.in_service:
            return  # `start` tells it
        self._told[slot] = loss.how
        peers = self._slots_of[slot.name]
        if all(peer.is_over for peer in peers):
            self._failure = f"{_what_happened(slot, loss)} and {slot.name} has no worker left"
            return
        left = sum(peer.runs for peer in peers)
        self._console.error(f"{_what_happened(slot, loss)}, {left} of {len(peers)} workers left{_what_follows(loss)}")

    def ready_again(self, slot: Slot) -> None:
        self._console.say(f"{slot.label} is ready again")

    # Stop.

    def start_no_more(self) -> None:
        """Give up what crashes from now on: everything ends."""
        for slot in self._slots:
            slot.in_service = False

    def force(self) -> None:
        """Have `stop` wait for nothing any more."""
        self._forced = True
        self._changed.set()

    async def stop(self, replaced: Collection[str] = ()) -> bool:
        """End the workers, callers first. True if each of them ended by itself, and well.

        The services that are named in `replaced` are served by others, too: their workers do not wait for those
        that call them, but unregister at once.
        """
        deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
        running = [slot for slot in self._slots if slot.runs]
        unready = [slot for slot in self._slots if not slot.is_ready]
        retiring = [slot for slot in self._slots if slot.name in replaced]
        for slot in retiring:
            slot.retire()
        for slot in unready:
            if slot not in retiring:
                slot.stop()
        await self._until(partial(_have_stopped, retiring), deadline)
        for group in reversed(self.plan.callees_first):
            slots = [slot for name in group for slot in self._slots_of[name] if slot not in unready]
            for slot in slots:
                slot.stop()
            await self._until(partial(_have_stopped, slots), deadline)
        await self._until_ended(running, deadline)
        well = [self._ended_well(slot, slot in unready) for slot in running]
        await self._kill_the_rest()
        return all(well)

    def _ended_well(self, slot: Slot, was_unready: bool) -> bool:
        if slot.runs:
            if not self._forced:
                self._console.error(f"{slot.label} does not end; killing it")
            return False
        status = slot.worker.exit_status
        if status in (0, -signal.SIGTERM):
            return True
        if was_unready and status == -signal.SIGKILL:
            self._console.warn(f"{slot.label} was still starting and did not end by itself")
            return True
        if slot.worker.how_it_ended not in self._told.values():
            self._console.error(f"{slot.label} did not end well: {slot.worker.how_it_ended}")
        return False

    async def _kill_the_rest(self) -> None:
        for slot in self._slots:
            slot.kill()
        if not self._tasks:
            return
        ended, stuck = await asyncio.wait(self._tasks, timeout=KILL_TIMEOUT_S)
        for task in stuck:
            self._console.error(f"{task.get_name()} cannot be killed; the kernel holds it")
            task.cancel()
        for task in ended:
            task.result()

    async def _until_ended(self, slots: Sequence[Slot], deadline: float) -> None:
        await self._until(lambda: not any(slot.runs for slot in slots), deadline)

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait for the condition, until all is to end at once or the time is up."""
        while not self._forced and not condition():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            await self._wait_for_change(left_s)

    async def _wait_for_change(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):  # `wait_for` forgets a cancellation that comes as it ends
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()


def counted(service: PlannedService) -> str:
    """`Worker x2`, or `Worker` if there is one."""
    return f"{service.name} x{service.workers}" if service.workers > 1 else service.name


def _have_stopped(slots: Sequence[Slot]) -> bool:
    return all(slot.has_stopped for slot in slots)


def _what_happened(slot: Slot, loss: Loss) -> str:
    if loss.was_ready:
        return f"{slot.label} is gone ({loss.how})"
    if loss.delay_s is not None:
        return f"{slot.label} failed to start again ({loss.how})"
    return f"{slot.label} failed to start {loss.failed_starts} times in a row ({loss.how}), is given up"


def _what_follows(loss: Loss) -> str:
    if loss.delay_s is None:
        return ""
    return f"; starting it again in {loss.delay_s:g} s ({_ordinal(loss.restarts)} restart)"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
