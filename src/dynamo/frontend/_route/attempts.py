"""From a request to the server that answers it: tried, and tried elsewhere while nothing of an answer is there.

A server that takes no connection has not got the request, and another one gets it. One that is lost, or fails, may
have been brought down by the request itself: it is tried once more and then never again. One that is busy says for how
long. Each server is tried once at most.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from dynamo._core.errors import CannotConnect, DynamoError, NoInstances, NoWorkerFits, Stalled
from dynamo.frontend._errors import HttpRuleError
from dynamo.frontend._route.backends import Backend, Backends
from dynamo.frontend._route.upstream import Answer, Headers, Upstream
from dynamo.llm._routing import Route
from dynamo.runtime._quarantine import Fault

#: So many servers may fail over one request.
LOST_MAX = 2
#: What is kept of an answer that says no, while another server is tried; and how long that may take.
REFUSAL_BYTES_MAX = 1 << 20
REFUSAL_S = 1.0

_BUSY = (429, 503)
_FAILING = (500, 502, 504)
_REFUSING = _BUSY + _FAILING


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent: all of it as it came, but for a salt."""

    method: str
    target: str
    headers: Headers
    body: bytes
    model: str | None


class Begun:
    """An answer whose first part is there. Whoever holds one closes it."""

    __slots__ = ("_is_open", "_is_whole", "answer", "backend", "first")

    def __init__(self, backend: Backend, answer: Answer, first: bytes) -> None:
        self.backend = backend
        self.answer = answer
        self.first = first
        self._is_whole = False
        self._is_open = True

    async def read(self) -> bytes:
        """Return what has arrived behind the first part, waiting for some; nothing at the end."""
        return b"" if self._is_whole else await self.answer.read()

    async def read_all(self, size_bytes_max: int) -> bytes:
        """Return all of it, and let the server go. Raises `DynamoError` if it is lost, or longer."""
        try:
            if not self._is_whole:
                self.first += await self.answer.read_all(size_bytes_max)
                self._is_whole = True
            return self.first
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads on. A second call changes nothing."""
        if self._is_open:
            self._is_open = False
            self.answer.close()
            self.backend.num_active -= 1


class Attempts:
    """Sends requests to the servers."""

    def __init__(self, backends: Backends, upstream: Upstream, clock: Callable[[], float]) -> None:
        self._backends = backends
        self._upstream = upstream
        self._clock = clock
        #: How often a request was sent once more, by why.
        self.retries: Counter[str] = Counter()

    async def send(self, request: Request, route: Route) -> Begun:
        """Return the answer of the server that the route takes, or of another one if that fails.

        If none says yes, it is the last answer that says no, of those that came to their end in time. Raises
        `HttpRuleError` if there is none.
        """
        tried: dict[int, str] = {}
        refusal: Begun | None = None
        num_lost = 0
        reason = ""
        while num_lost < LOST_MAX:
            id = self._next(request, route, tried)
            if id is None:
                break
            if tried:
                self.retries[reason] += 1
            backend = self._backends[id]
            try:
                begun = await self._try(backend, request)
                if begun.answer.status not in _REFUSING:
                    return begun
                why = f"{backend.url} answers {begun.answer.status} {begun.answer.reason}".rstrip()
                reason = "busy" if begun.answer.status in _BUSY else "failed"
                try:
                    async with asyncio.timeout(REFUSAL_S):
                        await begun.read_all(REFUSAL_BYTES_MAX)
                    refusal = begun
                except TimeoutError:
                    why += f", and that not to its end within {REFUSAL_S:g} s"
            except DynamoError as error:
                why, reason = error.message, "unreachable" if isinstance(error, CannotConnect) else "lost"
            tried[id] = why
            num_lost += reason in ("failed", "lost")
        if refusal is not None:
            return refusal
        raise self._nobody(tried)

    def _next(self, request: Request, route: Route, tried: dict[int, str]) -> int | None:
        ids = self._backends.candidates(request.model, tried, self._clock())
        if not ids:
            return None
        try:
            return route.choose(ids)
        except NoInstances as error:
            if tried:
                return None  # the one that the request names is not left
            raise NoWorkerFits(error.message, **error.details) from error

    async def _try(self, backend: Backend, request: Request) -> Begun:
        quarantine = self._backends.quarantine
        is_probe, mark = quarantine.begin(backend.id, self._clock()), quarantine.mark
        try:
            begun = await self._begin(backend, request)
        except DynamoError as error:
            fault = Fault.UNREACHABLE if isinstance(error, CannotConnect) else Fault.LOST
            self._note_fault(backend, fault, error, is_probe=is_probe)
            raise
        except BaseException:
            if is_probe:
                quarantine.give_up_probe(backend.id, self._clock())
            raise
        self._judge(backend, begun.answer, mark, is_probe=is_probe)
        return begun

    async def _begin(self, backend: Backend, request: Request) -> Begun:
        """Wait for the first part of an answer, for as long as checks of the server are answered.

        Of one that says no the head is enough.
        """
        backend.num_active += 1
        answer: Answer | None = None
        try:
            async with asyncio.timeout(None) as patience:
                with backend.waited_for(patience):
                    answer = await self._upstream.send(
                        backend.url, request.method, request.target, request.headers, request.body
                    )
                    return Begun(backend, answer, b"" if answer.status in _REFUSING else await answer.read())
        except BaseException as error:
            backend.num_active -= 1
            if answer is not None:
                answer.close()
            if isinstance(error, TimeoutError):
                raise Stalled(f"{backend.url} does not answer, and no checks of it either") from error
            raise

    def note_lost(self, backend: Backend, error: DynamoError) -> None:
        """A server was lost in the middle of an answer."""
        self._note_fault(backend, Fault.LOST, error, is_probe=False)

    def _note_fault(self, backend: Backend, fault: Fault, error: DynamoError, *, is_probe: bool) -> None:
        backend.failures[error.code] += 1
        self._backends.note_fault(backend.id, fault, error.message, self._clock(), is_probe=is_probe)

    def _judge(self, backend: Backend, answer: Answer, mark: int, *, is_probe: bool) -> None:
        """See by the status of an answer how its server is."""
        backend.answers[answer.status] += 1
        now = self._clock()
        if answer.status in _FAILING:
            why = f"{backend.url} answers {answer.status} {answer.reason}".rstrip()
            self._backends.note_fault(backend.id, Fault.LOST, why, now, is_probe=is_probe)
            return
        self._backends.note_answer(backend.id, mark)
        rest_s = retry_after_s(answer)
        if answer.status in _BUSY and (answer.status == 503 or rest_s is not None):
            self._backends.note_rest(backend.id, rest_s, now)

    def _nobody(self, tried: dict[int, str]) -> HttpRuleError:
        """Say which servers there are, and why none of them answers."""
        now = self._clock()
        reasons = [tried.get(one.id) or one.why_out or _resting(one, now) for one in self._backends]
        told = "; ".join(reason for reason in reasons if reason)
        retry_after_s = max(1, math.ceil(self._backends.rests_s(now)))
        return HttpRuleError(503, "no_backend", f"no backend answers: {told}", retry_after=str(retry_after_s))


def retry_after_s(answer: Answer) -> float | None:
    """Return for how long a server wants nothing; None if it does not say so."""
    value = (answer.header("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        # Between two times of the server's own clock.
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(answer.header("Date") or "")
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _resting(backend: Backend, now: float) -> str:
    rests_s = backend.rests_until - now
    return f"{backend.url} is busy, and wants nothing for {rests_s:.0f} s" if rests_s > 0 else ""
