"""Requests that are booked by their ids: those of callers who send them themselves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.route import KvRoute

#: One that is never freed must not stay for ever: the oldest goes when there are too many.
NAMED_MAX = 100_000


class NamedRoutes:
    """The routes of requests, by the ids that callers gave them."""

    def __init__(self, size_max: int = NAMED_MAX) -> None:
        self._size_max = size_max
        self._routes: OrderedDict[str, KvRoute] = OrderedDict()
        # The ids of those that each worker has.
        self._by_worker: dict[WorkerKey | None, set[str]] = {}
        #: Freed because there were too many.
        self.num_dropped = 0

    def __len__(self) -> int:
        return len(self._routes)

    def add(self, request_id: str, route: KvRoute) -> None:
        """Keep a route until it is freed. A request that is booked again is no longer where it was."""
        self.free(request_id)
        self._routes[request_id] = route
        self._by_worker.setdefault(route.worker, set()).add(request_id)
        if len(self._routes) > self._size_max:
            self.free(next(iter(self._routes)))
            self.num_dropped += 1

    def complete_prefill(self, request_id: str) -> bool:
        """The prompt of a request is computed. Returns whether the request is known."""
        route = self._routes.get(request_id)
        if route is not None:
            route.note_answer()
        return route is not None

    def note_tokens(self, request_id: str, num_tokens: int) -> bool:
        """So many tokens were generated. Returns whether the request is known."""
        route = self._routes.get(request_id)
        if route is not None:
            route.note_tokens(num_tokens)
        return route is not None

    def free(self, request_id: str) -> bool:
        """The request has ended. Returns whether it was known."""
        route = self._routes.pop(request_id, None)
        if route is not None:
            at_worker = self._by_worker[route.worker]
            at_worker.discard(request_id)
            if not at_worker:
                del self._by_worker[route.worker]
            route.close()
        return route is not None

    def expire(self, given_up: Iterable[WorkerKey]) -> None:
        """Forget the requests of workers that were given up, and their booking with it."""
        for worker in given_up:
            for request_id in list(self._by_worker.get(worker, ())):
                self.free(request_id)

    def close(self) -> None:
        """Free all."""
        for request_id in list(self._routes):
            self.free(request_id)
