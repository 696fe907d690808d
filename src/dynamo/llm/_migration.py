"""A request goes on with another worker when the one that answers it is lost.

The one table of which errors do that is `is_migratable`:

- `Disconnected`: the worker died or cannot be heard any more. Its kind `Stalled`: it is there and gives nothing.
- `EngineShutdown`: the worker ended, in order, before the request was done.
- `CannotConnect` and `WorkerUnavailable`: it did not take the request. The client has tried others already.

and not:

- `Unauthorized` and `IncompatibleVersion`: a setting is wrong, and waiting does not mend it.
- `NoInstances` and `Overloaded`: nobody takes the request now. Who has shown nothing yet is told so at once,
  because asking again costs nothing; an answer that has begun waits for up to `PATIENCE_S`.
- `HandlerError`, `InvalidArgument`, `DeadlineExceeded`, `Cancelled` and the rest: it would be so anywhere.
- `StreamIncomplete` and `ProtocolError`: the worker broke its word, and how much of it is right is unknown.

A request never goes back to an instance that it has lost. It moves at most `limit` times; a move by
`EngineShutdown` does not count if there was a token since the move before, or else a restart of all workers,
one by one, would end long answers.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from dynamo._core.context import Context
from dynamo._core.errors import (
    RELAYED,
    Cancelled,
    CannotConnect,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    IncompatibleVersion,
    NoInstances,
    Overloaded,
    Stalled,
    Unauthorized,
    WorkerUnavailable,
)
from dynamo.llm._model_card import MIGRATION_LIMIT
from dynamo.llm._poison import PoisonedRequest, PoisonList, Suspect
from dynamo.llm._response_check import ContractStats, ResponseCheck
from dynamo.llm._routing import NO_HINTS, Route, RoutingHints
from dynamo.llm._workers import Workers
from dynamo.runtime import ResponseStream

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: An answer that has begun waits so long for a worker that takes it.
PATIENCE_S = 10.0
#: The first move is made at once. The pause before the next ones doubles from here to there.
PAUSE_S = 0.05
PAUSE_MAX_S = 1.0

_MIGRATABLE = (Disconnected, EngineShutdown, CannotConnect, WorkerUnavailable)
_HOPELESS = (Unauthorized, IncompatibleVersion)
#: Nobody has begun the request.
_REFUSALS = (NoInstances, Overloaded, CannotConnect, WorkerUnavailable)


def is_migratable(error: DynamoError) -> bool:
    """Whether a request that failed with this error goes on with another worker."""
    return isinstance(error, _MIGRATABLE) and not isinstance(error, _HOPELESS)


def is_death(error: DynamoError) -> bool:
    """Whether the worker may have died of the request. One that stalls or ends in order has not."""
    return isinstance(error, Disconnected) and not isinstance(error, Stalled)


class MigrationType(enum.StrEnum):
    """Whether something of the answer was there when the request moved."""

    NEW_REQUEST = "new_request"
    ONGOING_REQUEST = "ongoing_request"


@dataclass(frozen=True, slots=True)
class MigrationPolicy:
    """How often the requests of a model move, and up to which length of prompt and answer together."""

    limit: int = MIGRATION_LIMIT
    max_seq_len: int | None = None


@dataclass(slots=True)
class MigrationStats:
    """What has moved, by model: the numbers behind `dynamo_frontend_model_migration_total` and its kin."""

    migrations: Counter[tuple[str, MigrationType]] = field(default_factory=Counter)
    max_seq_len_exceeded: Counter[str] = field(default_factory=Counter)
    limit_exceeded: Counter[str] = field(default_factory=Counter)
    poisoned: Counter[str] = field(default_factory=Counter)
    #: And what workers did wrong.
    contracts: ContractStats = field(default_factory=ContractStats)

    def add_model(self, model: str) -> None:
        """Begin to count for a model, from 0."""
        for kind in MigrationType:
            self.migrations[model, kind] += 0
        for counter in (self.max_seq_len_exceeded, self.limit_exceeded, self.poisoned):
            counter[model] += 0
        self.contracts.add_model(model)


class Migration:
    """How the requests of one model move between its workers."""

    def __init__(
        self,
        model: str,
        workers: Workers,
        policy: MigrationPolicy,
        stats: MigrationStats,
        poisoned: PoisonList,
        rng: random.Random,
    ) -> None:
        self.model = model
        self.workers = workers
        self.policy = policy
        self.stats = stats
        self.poisoned = poisoned
        self.rng = rng
        stats.add_model(model)

    def suspect(self, request: object) -> Suspect:
        """Return what is known against a request. Raises `PoisonedRequest` if it is refused."""
        suspect = Suspect(self.poisoned, request)
        suspect.check()
        return suspect

    def check(self, context: Context) -> ResponseCheck:
        """Return what holds an answer against the contract."""
        return ResponseCheck(self.stats.contracts, self.model, context.request_id)

    def journey(self, suspect: Suspect, context: Context, hints: RoutingHints = NO_HINTS) -> Journey:
        """Return the way of an answer that begins now."""
        return Journey(self, suspect, context, hints)


class _Sent(Protocol):
    @property
    def instance_id(self) -> int:
        """Who has the request."""


class Journey:
    """The way of one answer, in a `with` block: `send`, and after an error `go_on` and `send` again."""

    __slots__ = (
        "_context",
        "_hints",
        "_is_answered",
        "_lost",
        "_migration",
        "_num_moves",
        "_num_tokens",
        "_num_waits",
        "_patient_until",
        "_stream",
        "_suspect",
        "route",
    )

    def __init__(self, migration: Migration, suspect: Suspect, context: Context, hints: RoutingHints) -> None:
        self._migration = migration
        self._suspect = suspect
        self._context = context
        self._hints = hints
        #: The booking with the worker that has the request; None: nobody chooses workers.
        self.route: Route | None = None
        self._stream: _Sent | None = None
        # Whether the worker that has the request has answered.
        self._is_answered = False
        self._lost: set[int] = set()
        self._num_moves = 0
        self._num_waits = 0
        # As of the last move: what there is since then is progress.
        self._num_tokens = 0
        self._patient_until: float | None = None

    def __enter__(self) -> Journey:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._suspect.leave()
        self._end_route()

    async def send(self, request: object, item_type: type[T]) -> ResponseStream[T]:
        """Send to a worker that this request has not lost. Raises `NoInstances` if there is none.

        Among those that ask for the same it waits for its turn, unless there is but one worker to lose.
        """
        self._stream = None
        self._is_answered = False
        workers = self._migration.workers
        # In this order: it goes ahead of those who come when there are more workers.
        if not self._suspect.may_go() and len(workers.instance_ids()) > 1:
            await self._while_wanted(self._suspect.wait_for_turn())
        request, hints = workers.hand_on(request, self._hints)
        if workers.is_routed(hints):
            self.route = await workers.place(request, self._context, hints, avoid=self._lost)
        stream = await workers.send(request, self._context, item_type, avoid=self._lost, route=self.route)
        self._stream = stream
        return stream

    def note_answer(self) -> None:
        """The worker has answered. What comes after the first time is nothing new."""
        if not self._is_answered:
            self._is_answered = True
            self._suspect.note_answer()
            if self.route is not None:
                self._note_placed(self.route)

    async def go_on(self, error: DynamoError, *, num_tokens: int, seq_len: int = 0) -> None:
        """Return when the request may be sent again. Raises `error`, or what it comes to, if it must not be.

        `num_tokens` is how much of the answer there is, and `seq_len` the prompt and that.
        """
        self._end_route()
        has_progress = num_tokens > self._num_tokens
        self._num_tokens = num_tokens
        if has_progress:
            self._patient_until = None
            self._num_waits = 0
        if self._context.is_stopped():
            raise error
        if num_tokens and not has_progress and isinstance(error, _REFUSALS) and not isinstance(error, _HOPELESS):
            await self._wait_for_a_taker(error)
        elif is_migratable(error):
            self._note_loss(error)
            self._check_limits(error, seq_len, is_free=isinstance(error, EngineShutdown) and has_progress)
            await self._move(error)
        else:
            raise error

    def _note_placed(self, route: Route) -> None:
        """Who has the request is certain now, and has computed its prompt."""
        route.note_answer()
        if self._hints.explanation is not None and (decision := route.decision) is not None:
            self._hints.explanation.decisions.append(decision)

    def _end_route(self) -> None:
        route, self.route = self.route, None
        if route is not None:
            route.close()

    def _note_loss(self, error: DynamoError) -> None:
        """Never go back there, and have no third worker die."""
        instance = "unknown"
        if self._stream is not None:
            instance = f"{self._stream.instance_id:x}"
            if error.is_remote and (RELAYED in error.details or isinstance(error, Disconnected)):
                # Itself it is well: it told of the loss. Who that was is unknown, but not who it was before.
                instance = f"behind {instance}, at move {self._num_moves}"
            else:
                self._lost.add(self._stream.instance_id)
        if is_death(error):
            try:
                self._suspect.note_death(instance, error)
            except PoisonedRequest as poisoned:
                self._migration.stats.poisoned[self._migration.model] += 1
                logger.error("request %s: %s", self._context.request_id, poisoned)
                raise

    def _check_limits(self, error: DynamoError, seq_len: int, *, is_free: bool) -> None:
        migration, policy = self._migration, self._migration.policy
        if policy.limit == 0 or self._hints.pinned_instance is not None:
            raise error
        self._num_moves += not is_free
        if self._num_moves > policy.limit:
            migration.stats.limit_exceeded[migration.model] += 1
            raise error
        if policy.max_seq_len is not None and seq_len > policy.max_seq_len:
            migration.stats.max_seq_len_exceeded[migration.model] += 1
            raise error

    async def _move(self, error: DynamoError) -> None:
        migration = self._migration
        kind = MigrationType.ONGOING_REQUEST if self._num_tokens else MigrationType.NEW_REQUEST
        migration.stats.migrations[migration.model, kind] += 1
        logger.warning(
            "request %s to the model %r goes to another worker after %d tokens: %s",
            self._context.request_id, migration.model, self._num_tokens, error,
        )  # fmt: skip
        if self._num_moves > 1:
            await self._while_wanted(asyncio.sleep(self._pause_s(self._num_moves - 2)))

    async def _wait_for_a_taker(self, error: DynamoError) -> None:
        """Nobody takes what has begun: wait until somebody may, within bounds."""
        now = asyncio.get_running_loop().time()
        if self._patient_until is None:
            self._patient_until = now + PATIENCE_S
        left_s = self._patient_until - now
        if left_s <= 0:
            raise error
        workers = self._migration.workers
        # With a router there may be workers, and none that is right for the request.
        if isinstance(error, NoInstances) and not error.is_remote and not workers.has_another(self._lost):
            await self._while_wanted(workers.wait_for_another(self._lost, left_s))
            return
        pause_s = self._pause_s(self._num_waits)
        self._num_waits += 1
        if isinstance(error, Overloaded) and error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s)
        await self._while_wanted(asyncio.sleep(min(left_s, pause_s)))

    def _pause_s(self, doublings: int) -> float:
        """With jitter, so that those who were lost together do not come back together."""
        return min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(doublings, 16)) * self._migration.rng.uniform(0.5, 1.0)

    async def _while_wanted(self, waiting: Coroutine[object, object, None]) -> None:
        """Wait, but not beyond the deadline, nor when nobody wants the answer any more."""
        tasks = [asyncio.ensure_future(one) for one in (waiting, self._context.async_killed_or_stopped())]
        try:
            await asyncio.wait(tasks, timeout=self._context.remaining_s(), return_when=asyncio.FIRST_COMPLETED)
            if self._context.is_stopped():
                raise Cancelled(f"request {self._context.request_id} was cancelled")
            if not tasks[0].done():
                raise DeadlineExceeded(f"request {self._context.request_id} ran out of time")
            tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
