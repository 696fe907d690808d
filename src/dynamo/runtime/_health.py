"""Whether a process is alive, and whether it can be called.

What the process itself knows comes first: whether it has started, ends, or was declared not ready. Then
its own checks are asked. All of them must be true.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from dynamo._core.context import CancellationToken
from dynamo._core.errors import DynamoError
from dynamo._core.shown import one_line
from dynamo.runtime._served_endpoint import ServedEndpoint
from dynamo.runtime._threads import HandlerThreads

logger = logging.getLogger(__name__)

#: A check that takes longer counts as false.
CHECK_TIMEOUT_S = 5.0
CHECKS_MAX = 64
REASON_CHARS_MAX = 300

#: What a check is: true if all is well. A plain function runs in a thread, so that it may block.
Ask = Callable[[], Awaitable[object] | object]


class HealthKind(StrEnum):
    """What a check says."""

    LIVENESS = "liveness"  # whether the process should go on; if not, it is to be restarted
    READINESS = "readiness"  # whether it should get requests


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer; `reason` says why it is no, and `has_failed` that a check raised instead of answering."""

    is_good: bool
    reason: str = ""
    has_failed: bool = False


_GOOD = Verdict(is_good=True)


class HealthCheck:
    """One question. It is asked by one at a time: whoever comes meanwhile gets the same answer."""

    def __init__(self, name: str, ask: Ask, threads: HandlerThreads, timeout_s: float) -> None:
        self.name = name
        self._ask = ask
        self._is_async = inspect.iscoroutinefunction(ask)
        self._threads = threads
        self._timeout_s = timeout_s
        # The mutable state: the question that is being asked, and what the log was told last.
        self._asking: asyncio.Task[object] | None = None
        self._told = _GOOD
        self._closed = False

    async def verdict(self) -> Verdict:
        """Ask, and wait for so long as it has. What a check raises is a verdict, too."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._run(), name=f"health check {self.name}")
        asking = self._asking
        await asyncio.wait([asking], timeout=self._timeout_s)
        if self._closed:
            return _GOOD
        verdict = self._read(asking)
        if verdict != self._told:
            self._told = verdict
            if verdict.reason:
                logger.warning("not healthy: %s", verdict.reason)
            else:
                logger.info("healthy again: %s", self.name)
        return verdict

    def _read(self, asking: asyncio.Task[object]) -> Verdict:
        if not asking.done() and self._is_async:
            asking.cancel()  # a thread cannot be: it is joined by who asks next
        if not asking.done() or asking.cancelled():
            return Verdict(is_good=False, reason=f"{self.name} gave no answer within {self._timeout_s:g} s")
        error = asking.exception()
        if error is not None:
            text = one_line(error, REASON_CHARS_MAX)
            return Verdict(is_good=False, reason=f"{self.name} raised {type(error).__name__}: {text}", has_failed=True)
        return _GOOD if asking.result() else Verdict(is_good=False, reason=f"{self.name} is false")

    async def _run(self) -> object:
        try:
            if self._is_async:
                return bool(await cast("Awaitable[object]", self._ask()))
            result = await asyncio.get_running_loop().run_in_executor(self._threads, self._call)
            return bool(await result) if inspect.isawaitable(result) else result
        except (SystemExit, KeyboardInterrupt) as error:  # it would end the loop
            raise DynamoError(f"{type(error).__name__}: {error}") from error

    def _call(self) -> object:
        try:
            result = self._ask()
            return result if inspect.isawaitable(result) else bool(result)
        except StopIteration as error:
            # A future cannot hold it, so whoever awaits the thread would never hear of it.
            raise RuntimeError("StopIteration") from error

    def close(self) -> None:
        """Ask no more; who waits for an answer hears that nothing is wrong."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()


class Health:
    """What a process says of itself, and its checks."""

    def __init__(self, shutdown: CancellationToken, served: Callable[[], list[ServedEndpoint]]) -> None:
        self._shutdown = shutdown
        self._served = served
        # Of its own: a process whose handlers keep all of theirs busy is alive. Each is made when it is needed.
        self._threads = HandlerThreads(CHECKS_MAX * len(HealthKind))
        #: Whether the framework around the process has started it; None if there is none.
        self.started: bool | None = None
        #: Whether the user's code says that it is ready; None if it said nothing.
        self.declared: bool | None = None
        #: How long the checks have that are added from now on.
        self.check_timeout_s = CHECK_TIMEOUT_S
        self._checks: dict[HealthKind, list[HealthCheck]] = {kind: [] for kind in HealthKind}

    def add(self, kind: HealthKind, name: str, ask: Ask) -> HealthCheck:
        """Ask `ask` from now on: it returns, or gives when awaited, true if all is well."""
        if len(self._checks[kind]) >= CHECKS_MAX:
            raise DynamoError(f"a process has at most {CHECKS_MAX} checks of {kind}; {name} is one too many")
        check = HealthCheck(name, ask, self._threads, self.check_timeout_s)
        self._checks[kind].append(check)
        return check

    def remove(self, check: HealthCheck) -> None:
        """Ask a check no more; one that is not there is no error."""
        check.close()
        for checks in self._checks.values():
            if check in checks:
                checks.remove(check)

    async def is_live(self) -> Verdict:
        """Whether the process should go on. One that ends is not asked any more: it is to end in peace."""
        return _GOOD if self._shutdown.is_cancelled() else await self._ask(HealthKind.LIVENESS)

    async def is_ready(self) -> Verdict:
        """Whether the process should get requests: its checks are asked if nothing else speaks against it."""
        verdict = _GOOD if self._objection() else await self._ask(HealthKind.READINESS)
        reason = self._objection()  # it may have begun to end meanwhile
        return Verdict(is_good=False, reason=reason) if reason else verdict

    def endpoints(self) -> dict[str, bool]:
        """Whether each endpoint that is served here is ready, by its name, or its path if two have that."""
        return {
            name: endpoint.is_open and endpoint.is_registered and not endpoint.complaint
            for name, endpoint in self._named()
        }

    def _named(self) -> list[tuple[str, ServedEndpoint]]:
        served = sorted(self._served(), key=lambda endpoint: str(endpoint.id))
        names = [endpoint.id.endpoint for endpoint in served]
        return [
            (name if names.count(name) == 1 else str(endpoint.id), endpoint)
            for name, endpoint in zip(names, served, strict=True)
        ]

    def close(self) -> None:
        """Ask nothing any more."""
        for checks in self._checks.values():
            for check in checks:
                check.close()
        self._threads.shutdown()

    def _objection(self) -> str:
        """Why the process is not ready whatever its checks say; empty if there is nothing."""
        endpoints = self._named()
        if self._shutdown.is_cancelled():
            return "it is shutting down"
        if self.started is False:
            return "it is starting or stopping"
        if self.declared is False:
            return "set_health_status(False) was called"
        if not (endpoints or self.started or self.declared):
            return "it serves no endpoint yet"
        closing = [name for name, endpoint in endpoints if not endpoint.is_open]
        asleep = [name for name, endpoint in endpoints if endpoint.is_open and not endpoint.is_registered]
        complaints = [
            f"the canary of {name} {endpoint.complaint}" for name, endpoint in endpoints if endpoint.complaint
        ]
        if asleep and not closing:
            return f"{', '.join(asleep)} sleeps: it is not registered"
        return f"{', '.join(closing)} drains" if closing else "; ".join(complaints)

    async def _ask(self, kind: HealthKind) -> Verdict:
        """Ask all checks of a kind at once; one that fails says more than one that is false."""
        verdicts = await asyncio.gather(*(check.verdict() for check in self._checks[kind]))
        bad = [verdict for verdict in verdicts if not verdict.is_good]
        return next((verdict for verdict in bad if verdict.has_failed), bad[0] if bad else _GOOD)
