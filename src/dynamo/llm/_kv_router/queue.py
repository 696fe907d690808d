"""Requests that wait for room, in order. No I/O: who waits, and what is done when it is their turn, is passed in.

Each policy class has a line. In it higher strict priorities go first, and then who comes first by its order. Lines
share by their quanta: the one that has had the least for its quantum is next. A request whose workers are all busy
holds up those alone that could go to no others.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dynamo._core.errors import RouterQueueLimitExceeded
from dynamo.llm._kv_router.policy_class import PolicyClass, QueuePolicy

T = TypeVar("T")
#: Who waits, with what they are sorted by.
Heap = list[tuple[tuple[int, float], int, "Waiting[T]"]]

DEFAULT_CLASS = "default"


@dataclass(slots=True, eq=False)
class Waiting(Generic[T]):
    """One request that waits."""

    item: T
    arrival: float
    #: Those with the same one could go to the same workers.
    workers_key: Hashable = None
    #: What its worker would have to compute.
    num_new_tokens: int = 0
    priority_jump: float = 0.0
    strict_priority: int = 0
    policy_class: str | None = None
    #: Whether it has left the queue.
    is_gone: bool = field(default=False, init=False)


def order(policy: QueuePolicy, waiting: Waiting[T]) -> tuple[int, float]:
    """Return by what requests of one line are sorted: the smallest goes first."""
    jump = waiting.priority_jump
    if policy == "fcfs":
        key = waiting.arrival - jump
    elif policy == "lcfs":
        key = -(waiting.arrival + jump)
    else:
        # Never 0 or less: among those with the same priority the shorter one always goes first.
        weight = 1.0 + jump if jump >= 0 else 1.0 / (1.0 - jump)
        key = -weight / max(1, waiting.num_new_tokens)
    return -waiting.strict_priority, key


class RequestQueue(Generic[T]):
    """The lines of one router."""

    def __init__(self, policy: QueuePolicy, classes: tuple[PolicyClass, ...], *, size_max: int) -> None:
        self._size_max = size_max
        by_name = {one.name: one for one in (PolicyClass(DEFAULT_CLASS), *classes)}
        self._lines = {name: _Line[T](one, one.queue_policy or policy) for name, one in by_name.items()}
        # What a line had had, for its quantum, when it was its turn last: the most of all. Who begins to wait begins
        # here, and so owes nothing for the time when nobody else waited, and is owed nothing either.
        self._turn = 0.0

    def __len__(self) -> int:
        return sum(line.num_waiting for line in self._lines.values())

    def lengths(self) -> dict[str, int]:
        """How many requests wait in each class."""
        return {name: line.num_waiting for name, line in self._lines.items()}

    def add(self, waiting: Waiting[T], num_workers: int) -> None:
        """Have a request wait, of a class that there is. Raises `RouterQueueLimitExceeded` if too many do."""
        name = waiting.policy_class or DEFAULT_CLASS
        line = self._lines[name]
        _check(name, "requests", len(self), self._size_max)
        limits = line.policy_class
        _check(name, "requests", line.num_waiting, _times(limits.waiting_requests_limit_per_worker, num_workers))
        _check(name, "tokens", line.num_tokens, _times(limits.waiting_tokens_limit_per_worker, num_workers))
        if not len(self):
            self._turn = max(one.had for one in self._lines.values())
        if not line.num_waiting:
            line.had = max(line.had, self._turn)  # it does not save up turns while nobody waits in it
        line.add(waiting)

    def remove(self, waiting: Waiting[T]) -> None:
        """A request waits no longer. A second call changes nothing."""
        if not waiting.is_gone:
            self._lines[waiting.policy_class or DEFAULT_CLASS].leave(waiting)

    def drain(self) -> list[T]:
        """Take all out."""
        waiting = [one for line in self._lines.values() for one in line.waiting()]
        for one in waiting:
            self.remove(one)
        return [one.item for one in waiting]

    def dispatch(self, take: Callable[[Waiting[T]], bool]) -> int:
        """Offer requests in order until nobody takes one; returns how many were taken.

        `take` says whether a request goes. If not, all that could go to the same workers only stay, too.
        """
        num_taken = 0
        stuck: set[Hashable] = set()
        heads = {line: line.heads() for line in self._lines.values() if line.num_waiting}
        while heads:
            line = min(heads, key=lambda one: one.had)
            head = _first(heads[line], stuck)
            if head is None:
                del heads[line]
            elif take(head):
                num_taken += 1
                self._turn = max(self._turn, line.had)
                line.had += max(1, head.num_new_tokens) / line.policy_class.quantum
                self.remove(head)
                line.replace_first(heads[line])
            else:
                stuck.add(head.workers_key)
        return num_taken


class _Line(Generic[T]):
    """The requests of one class, and what the class has had: new tokens for its quantum."""

    def __init__(self, policy_class: PolicyClass, policy: QueuePolicy) -> None:
        self.policy_class = policy_class
        self.num_waiting = 0
        self.num_tokens = 0
        self.had = 0.0
        self._policy = policy
        self._numbers = itertools.count()
        # In heaps, by their workers; those that are gone are dropped when they come up.
        self._heaps: dict[Hashable, Heap[T]] = {}

    def add(self, waiting: Waiting[T]) -> None:
        heap = self._heaps.setdefault(waiting.workers_key, [])
        heapq.heappush(heap, (order(self._policy, waiting), next(self._numbers), waiting))
        self.num_waiting += 1
        self.num_tokens += waiting.num_new_tokens

    def leave(self, waiting: Waiting[T]) -> None:
        waiting.is_gone = True
        self.num_waiting -= 1
        self.num_tokens -= waiting.num_new_tokens
        heap = self._heaps[waiting.workers_key]
        if len(heap) > 2 * self.num_waiting + 16:
            self._heaps[waiting.workers_key] = heap = [one for one in heap if not one[2].is_gone]
            heapq.heapify(heap)
        while heap and heap[0][2].is_gone:
            heapq.heappop(heap)
        if not heap:
            del self._heaps[waiting.workers_key]

    def waiting(self) -> list[Waiting[T]]:
        """All who wait, in no order."""
        return [one for heap in self._heaps.values() for _, _, one in heap if not one.is_gone]

    def heads(self) -> Heap[T]:
        """Those who go first to each kind of workers, as a heap."""
        heads = [heap[0] for heap in self._heaps.values()]
        heapq.heapify(heads)
        return heads

    def replace_first(self, heads: Heap[T]) -> None:
        """The first of the heads has left the line: who comes next to the same workers takes its place."""
        heap = self._heaps.get(heads[0][2].workers_key)
        if heap:
            heapq.heapreplace(heads, heap[0])
        else:
            heapq.heappop(heads)


def _first(heads: Heap[T], stuck: set[Hashable]) -> Waiting[T] | None:
    """Return who goes next, of those whose workers are not known to be busy; the others are dropped."""
    while heads and heads[0][2].workers_key in stuck:
        heapq.heappop(heads)
    return heads[0][2] if heads else None


def _check(policy_class: str, limit_kind: str, current: int, limit: int | None) -> None:
    if limit is not None and current >= limit:
        raise RouterQueueLimitExceeded(
            f"{current} {limit_kind} wait in the router's queue for the policy class {policy_class!r}, and no more "
            f"than {limit} may; try again later",
            policy_class=policy_class,
            limit_kind=limit_kind,
            current=current,
            limit=limit,
        )


def _times(limit: int | None, num_workers: int) -> int | None:
    return None if limit is None else limit * max(1, num_workers)
