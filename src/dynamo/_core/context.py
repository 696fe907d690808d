"""What travels with a request: its id, its deadline, its metadata, its trace, and whether it is still wanted."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec

from dynamo._core.errors import InvalidArgument
from dynamo._core.trace import TRACEPARENT, Trace, begin_span

logger = logging.getLogger(__name__)

P = ParamSpec("P")

# An id has to be nobody else's, and needs not be hard to guess; to ask the system for each costs more than the rest.
_random = random.Random()
_random_bits = _random.getrandbits
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)

_one_span = threading.Lock()


class CancellationToken:
    """Says once, to everyone who asks, that work should end."""

    __slots__ = ("_callbacks", "_cancelled")

    def __init__(self) -> None:
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Cancel this token and its children. A second call changes nothing."""
        if self._cancelled:
            return
        self._cancelled = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _tell(callback)

    def is_cancelled(self) -> bool:
        return self._cancelled

    async def cancelled(self) -> None:
        """Wait until the token is cancelled."""
        if self._cancelled:
            return
        future = asyncio.get_running_loop().create_future()
        wake = lambda: None if future.done() else future.set_result(None)  # noqa: E731
        self.add_callback(wake)
        try:
            await future
        finally:
            self.remove_callback(wake)

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the token is cancelled; at once if it is already."""
        if self._cancelled:
            callback()
        else:
            self._callbacks.append(callback)

    def remove_callback(self, callback: Callable[[], None]) -> None:
        """Forget a callback; one that is not there is no error."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def child_token(self) -> CancellationToken:
        """Return a token that is cancelled with this one, and may be cancelled alone."""
        child = CancellationToken()
        self.add_callback(child.cancel)
        child.add_callback(lambda: self.remove_callback(child.cancel))
        return child


class Context:
    """A request's id, deadline, metadata, trace and cancellation; the same on every hop.

    `stop_generating()` asks for a soft end: finish with what there is. `kill()` says that nobody
    listens any more. A context handed to a nested call links the two: what ends the outer request
    ends the inner one.
    """

    __slots__ = (
        "_killed",
        "_metadata",
        "_stopped",
        "_stopped_token",
        "_told",
        "_trace",
        "_watchers",
        "deadline",
        "is_over",
        "request_id",
    )

    def __init__(
        self, id: str | None = None, metadata: dict[str, str] | None = None, *, deadline: float | None = None
    ) -> None:
        if deadline is not None and math.isnan(deadline):
            raise InvalidArgument("the deadline of a request is a time of the loop's clock, not NaN")
        self.request_id: str = id or f"{_random_bits(128):032x}"
        # A copy: the trace of each context is its own.
        self._metadata: dict[str, str] = dict(metadata) if metadata else {}
        self._trace: Trace | None = None
        # The trace that the metadata tells of.
        self._told: Trace | None = None
        #: `loop.time()` at which the request's time is up; None: never.
        self.deadline: float | None = deadline
        #: True once nobody in this process works on the request any more.
        self.is_over: bool = False
        self._stopped = False
        self._killed = False
        # Called with `killed` when the request is stopped, and again when it is killed after that.
        self._watchers: list[Callable[[bool], None]] = []
        self._stopped_token: CancellationToken | None = None

    def id(self) -> str:
        return self.request_id

    @property
    def metadata(self) -> dict[str, str]:
        """What travels with the request. If it is traced, whoever gets this is told of the span here."""
        metadata = self._metadata
        trace = self._trace
        if trace is None and metadata and TRACEPARENT in metadata:
            trace = self._begin_span()
        if trace is not self._told and trace is not None:
            # Not when it is made: that may be in a thread, while the metadata is sent.
            self._told = trace
            trace.write_to(metadata)
        return metadata

    @property
    def trace(self) -> Trace:
        """The trace of the request, and its span here. Made on first use, so ask before you call others."""
        return self._trace or self._begin_span()

    def _begin_span(self) -> Trace:
        with _one_span:  # several threads may work on the request
            if self._trace is None:
                self._trace = begin_span(self._metadata, self.request_id)
            return self._trace

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, never negative; None if there is none."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def stop_generating(self) -> None:
        """Ask for a soft end."""
        if not self._stopped:
            self._stopped = True
            self._tell()

    def kill(self) -> None:
        """Say that nobody listens any more. A killed context is stopped, too."""
        if not self._killed:
            self._stopped = self._killed = True
            self._tell()

    def is_stopped(self) -> bool:
        return self._stopped

    def is_killed(self) -> bool:
        return self._killed

    async def async_killed_or_stopped(self) -> None:
        """Wait until the request is stopped or killed."""
        await self.stopped_token.cancelled()

    @property
    def stopped_token(self) -> CancellationToken:
        """Cancelled when the request is stopped or killed. Made on first use: most requests need none."""
        if self._stopped_token is None:
            token = self._stopped_token = CancellationToken()
            self.watch(lambda killed: token.cancel())
        return self._stopped_token

    def watch(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(killed)` when the request is stopped or killed; at once if it is already."""
        if self._stopped:
            callback(self._killed)
        if not self._killed:
            self._watchers.append(callback)

    def unwatch(self, callback: Callable[[bool], None]) -> None:
        """Forget a callback; one that is not there is no error."""
        if callback in self._watchers:
            self._watchers.remove(callback)

    def _tell(self) -> None:
        for callback in tuple(self._watchers):
            _tell(callback, self._killed)


#: The request that is being handled, for what is logged and called meanwhile.
current_context: ContextVar[Context | None] = ContextVar("current_context", default=None)


@contextmanager
def handling(context: Context) -> Iterator[None]:
    """Let everything within belong to the request of `context`, which is then over."""
    token = current_context.set(context)
    try:
        yield
    finally:
        context.is_over = True
        current_context.reset(token)


def _tell(callback: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call one of several who want to know: if it fails, the others must hear nevertheless."""
    try:
        callback(*args, **kwargs)
    except Exception:
        logger.exception("a callback of a request that ends has failed")
