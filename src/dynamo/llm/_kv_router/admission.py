"""Requests wait here while every worker that they could go to has enough to compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from dynamo._core.errors import Cancelled, DeadlineExceeded, DynamoError, NoInstances, Overloaded
from dynamo.llm._kv_router.config import KvRouterConfig
from dynamo.llm._kv_router.decision import Weighed
from dynamo.llm._kv_router.queue import RequestQueue, Waiting
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._kv_router.selector import Selector


class _Wait:
    """A route, and what becomes of its waiting."""

    __slots__ = ("future", "route")

    def __init__(self, route: KvRoute, future: asyncio.Future[None]) -> None:
        self.route = route
        self.future = future


class _There(NamedTuple):
    """Who is there at a moment."""

    ids: list[int]
    alive: frozenset[int]
    #: Those that the client does not offer, because they were at fault lately; it may offer one of them to try it.
    passed_over: frozenset[int]


class Admission:
    """The queue of one router, of which those who free a worker let the next ones out."""

    def __init__(
        self,
        config: KvRouterConfig,
        selector: Selector,
        alive: Callable[[], list[int]],
        is_passed_over: Callable[[int], bool],
    ) -> None:
        assert config.queue_threshold is not None
        self._threshold = config.queue_threshold
        self._timeout_s = config.queue_timeout_s
        self._selector = selector
        self._alive = alive
        self._is_passed_over = is_passed_over
        self._loop = asyncio.get_running_loop()
        self._queue: RequestQueue[_Wait] = RequestQueue(
            config.queue_policy, config.policy_classes, size_max=config.queue_size_max
        )
        self._is_woken = False

    def lengths(self) -> dict[str, int]:
        """How many requests wait, by policy class."""
        return self._queue.lengths()

    async def admit(self, route: KvRoute) -> None:
        """Return once a request is booked with a worker; its policy class is one that there is.

        Raises `NoInstances` if no worker comes into question, `RouterQueueLimitExceeded` if too many requests wait,
        and `DeadlineExceeded`, `Overloaded` or `Cancelled` if it has waited in vain.
        """
        there = self._there()
        if not self._queue and (ids := self._with_room(route, there)) is not None:
            route.reserve(ids)
            return
        wait = _Wait(route, self._loop.create_future())
        ids = _not_avoided(route, there)
        waiting = self._waiting(wait, ids)
        try:
            self._queue.add(waiting, len(ids))
        except DynamoError:
            self._selector.stats.queue_rejected += 1
            raise
        self._dispatch()
        if not wait.future.done():
            self._selector.stats.queued += 1
        await self._until_its_turn(waiting)

    async def _until_its_turn(self, waiting: Waiting[_Wait]) -> None:
        route, future = waiting.item.route, waiting.item.future
        context = route.asked.context
        until = self._loop.time() + self._timeout_s
        at_end: DynamoError = Overloaded(f"no worker had room for the request within {self._timeout_s:g} s")
        if context.deadline is not None and context.deadline < until:
            until = context.deadline
            at_end = DeadlineExceeded(f"request {context.request_id} ran out of time: it waited for a worker with room")
        cancelled = Cancelled(f"request {context.request_id} was cancelled")
        timer = self._loop.call_at(until, _fail, future, at_end)
        give_up = lambda killed: _fail(future, cancelled)  # noqa: E731
        context.watch(give_up)
        try:
            await future
        except BaseException:
            self._queue.remove(waiting)
            self._selector.stats.queue_abandoned += 1
            # It may have been booked just now.
            route.close()
            raise
        finally:
            timer.cancel()
            context.unwatch(give_up)
            self._selector.stats.queueing.add(self._loop.time() - waiting.arrival)

    # Room comes when a prompt is computed or a request ends. Here it is told.

    def booked(self, route: KvRoute, weighed: Weighed) -> None:
        """Nobody has more room for that."""

    def prefill_completed(self, route: KvRoute) -> None:
        """There may be room."""
        self.wake()

    def freed(self, route: KvRoute) -> None:
        """There may be room."""
        self.wake()

    def close(self) -> None:
        """Nobody waits any more: the router is closed."""
        for wait in self._queue.drain():
            _fail(wait.future, NoInstances("the KV router was closed while the request waited in it for room"))

    def wake(self) -> None:
        """Look again who may go: soon, and once for everything that happens until then."""
        if self._queue and not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_woken = False
        there = self._there()
        self._queue.dispatch(lambda waiting: self._take(waiting, there))

    def _take(self, waiting: Waiting[_Wait], there: _There) -> bool:
        """Book a request if there is room for it; returns whether it waits no longer."""
        route, future = waiting.item.route, waiting.item.future
        if future.done():
            return True
        try:
            ids = self._with_room(route, there)
            if ids is None:
                return False
            route.queue_s = self._loop.time() - waiting.arrival
            route.reserve(ids)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        return True

    def _with_room(self, route: KvRoute, there: _There) -> list[int] | None:
        """Return the workers to choose from for a request, if one of them has room; None if the request has to wait.

        The room of one that is passed over is none, unless they all are: the request would not get there.
        """
        asked, ids = route.asked, _not_avoided(route, there)
        only = asked.pinned_instance
        if only is None or only not in there.alive or only in asked.avoid:
            loads = self._selector.wanted(asked, ids)
        else:
            loads = self._selector.wanted(asked, [only])
        if there.passed_over:
            good = [load for load in loads if load.key.worker_id not in there.passed_over]
            if good and len(good) < len(loads):
                loads, ids = good, [id for id in ids if id not in there.passed_over]
        has_room = any(load.prefill_tokens <= self._threshold * load.facts.max_num_batched_tokens for load in loads)
        return ids if has_room else None

    def _there(self) -> _There:
        ids = self._alive()
        return _There(ids, frozenset(ids), frozenset(filter(self._is_passed_over, ids)))

    def _waiting(self, wait: _Wait, ids: list[int]) -> Waiting[_Wait]:
        asked, prompt = wait.route.asked, wait.route.prompt
        overlaps = self._selector.overlaps(prompt, self._selector.wanted(asked, ids))
        return Waiting(
            wait,
            self._loop.time(),
            (asked.constraints.required_taints, asked.pinned_instance, asked.pinned_dp_rank, frozenset(asked.avoid)),
            prompt.num_tokens - max(overlaps) * prompt.block_size,
            asked.priority_jump,
            asked.strict_priority,
            asked.policy_class,
        )


def _not_avoided(route: KvRoute, there: _There) -> list[int]:
    avoid = route.asked.avoid
    return [id for id in there.ids if id not in avoid] if avoid else there.ids


def _fail(future: asyncio.Future[None], error: DynamoError) -> None:
    if not future.done():
        future.set_exception(error)
