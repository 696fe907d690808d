"""What the router answers: the endpoints of its component."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument, NoInstances, NotFound, NoWorkerFits
from dynamo.llm import KvRouter
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._kv_router.stream import note_output
from dynamo.router._bookings import Bookings
from dynamo.router._messages import Named, Query, Recent, read, read_query
from dynamo.router._workers import EndpointWorkers
from dynamo.runtime._serving import EndpointHandler

#: So many decisions are shown at most.
SHOWN_MAX = 100


class Watch(Protocol):
    """Sees when routing does not help."""

    @property
    def warnings(self) -> Sequence[str]:
        """What is wrong now, in a sentence each."""


class Handlers:
    """Answers with what the KV router knows. All answers but those of `generate` are one item."""

    def __init__(self, router: KvRouter, workers: EndpointWorkers, bookings: Bookings, watch: Watch) -> None:
        self._router = router
        self._workers = workers
        self._bookings = bookings
        self._watch = watch

    def by_name(self) -> dict[str, EndpointHandler]:
        """The handler of each endpoint; the last one is what the router is there for."""
        return {
            "best_worker": self.best_worker,
            "best_worker_id": self.best_worker_id,
            "get_overlap_scores": self.get_overlap_scores,
            "get_potential_loads": self.get_potential_loads,
            "mark_prefill_complete": self.mark_prefill_complete,
            "note_tokens": self.note_tokens,
            "free": self.free,
            "explain": self.explain,
            "generate": self.generate,
        }

    async def generate(self, request: object, context: Context) -> AsyncGenerator[dict[str, object], None]:
        """Send a `PreprocessedRequest` to the best worker, and yield what that generates.

        The request is passed on as it is, but for its rank. The first output says, in `routed_to`, who has it.
        """
        if not isinstance(request, Mapping):
            raise InvalidArgument(
                f"a request to generate is a mapping, as workers take it, not {type(request).__name__}"
            )
        query = self._read(request)
        self._workers.check_alive()
        with self._whoever_is_left():
            route = await self._router.place(query.asked(request, context))
        try:
            with self._whoever_is_left():
                sent = await self._workers.send(request, route, context)
            async with sent as stream:
                is_told = False
                while outputs := await stream.batch():
                    route.note_answer()
                    if not is_told:
                        outputs[0]["routed_to"] = _routed_to(route)
                        is_told = True
                    for output in outputs:
                        note_output(route, output)
                        yield output
        finally:
            route.close()

    async def best_worker(self, request: object) -> dict[str, int]:
        """Say where a prompt should go. With a `request_id` it is booked there, until `free`."""
        worker_id, dp_rank, overlap_blocks = await self._best(self._read(request))
        return {"worker_id": worker_id, "dp_rank": dp_rank, "overlap_blocks": overlap_blocks}

    async def best_worker_id(self, request: object) -> int:
        """Say the same in one number."""
        return (await self._best(self._read(request)))[0]

    async def get_overlap_scores(self, request: object) -> Mapping[str, object]:
        """Say how many leading blocks of a prompt each worker has cached."""
        query = self._read(request)
        return dict(
            await self._router.get_overlap_scores(
                query.token_ids, lora_name=query.lora_name, cache_namespace=query.cache_salt
            )
        )

    async def get_potential_loads(self, request: object) -> list[dict[str, int]]:
        """Say what each worker would have to do with this prompt."""
        query = self._read(request)
        return await self._router.get_potential_loads(
            query.token_ids, lora_name=query.lora_name, cache_namespace=query.cache_salt
        )

    async def mark_prefill_complete(self, request: object) -> dict[str, object]:
        """The first token of a booked request is there. Says whether it is booked."""
        named = read(request, Named)
        return _known(named, await self._bookings.complete_prefill(named.request_id))

    async def note_tokens(self, request: object) -> dict[str, object]:
        """So many more tokens of a booked request were generated. Says whether it is booked."""
        named = read(request, Named)
        return _known(named, await self._bookings.note_tokens(named.request_id, named.num_tokens))

    async def free(self, request: object) -> dict[str, object]:
        """A booked request has ended. Says whether it was booked."""
        named = read(request, Named)
        return _known(named, await self._bookings.free(named.request_id))

    async def explain(self, request: object) -> dict[str, object]:
        """Say why the request of an id, or why each of the last ones, went where it went."""
        recent = read(request, Recent)
        if recent.request_id is not None:
            decision = self._router.decisions.get(recent.request_id)
            if decision is None:
                raise NotFound(f"no decision is known on a request {recent.request_id[:128]!r}: only the last are kept")
            return {"decisions": [msgspec.to_builtins(decision)]}
        if not 1 <= recent.limit <= SHOWN_MAX:
            raise InvalidArgument(f"limit must be a whole number from 1 to {SHOWN_MAX}, not {recent.limit}")
        decisions = self._router.decisions.recent(recent.limit)
        return {"decisions": msgspec.to_builtins(decisions), "warnings": list(self._watch.warnings)}

    def _read(self, request: object) -> Query:
        card = self._workers.card
        return read_query(request) if card is None else read_query(request, card.context_length)

    @contextmanager
    def _whoever_is_left(self) -> Iterator[None]:
        """Within the block, that nobody can be taken means that none of the workers is what the request asks for."""
        try:
            yield
        except NoInstances as error:
            self._workers.check_alive()
            raise NoWorkerFits(error.message, **error.details) from error

    async def _best(self, query: Query) -> tuple[int, int, int]:
        query.check_open()
        self._workers.check_alive()
        wishes = query.routing
        with self._whoever_is_left():
            found = await self._router.best_worker(
                query.token_ids, query.router_config_override, query.request_id, query.update_indexer,
                lora_name=query.lora_name, cache_namespace=query.cache_salt,
                routing_constraints=wishes.routing_constraints, session_id=wishes.session_id,
                priority_jump=wishes.priority, strict_priority=wishes.strict_priority, policy_class=wishes.policy_class,
            )  # fmt: skip
        if query.request_id is not None:
            await self._bookings.add(query.request_id)
        return found


def _routed_to(route: KvRoute) -> dict[str, int]:
    assert route.weighed is not None
    worker_id, dp_rank = route.weighed.load.key
    return {"worker_id": worker_id, "dp_rank": dp_rank, "overlap_blocks": route.weighed.overlap_blocks}


def _known(named: Named, is_known: bool) -> dict[str, object]:
    return {"request_id": named.request_id, "is_booked": is_known}
