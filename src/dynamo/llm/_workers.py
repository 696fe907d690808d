"""The workers of one model: which of an endpoint's instances may be asked, and asking one of them.

An instance may serve the endpoint and still not the model: its card has not come yet, or was refused.
No request goes there, for its answers could be those of another model. Only where a person said that the
endpoint serves the model, every instance of it does.

Without a router the instances are asked in turn. With one, it is asked first where a request goes (`_routing.py`).
The instances may be routers themselves (`dynamo.router`), before workers that are not known here. What a request says
of its worker is then for them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Container, Mapping
from itertools import islice
from typing import TypeVar

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, NoInstances, NoWorkerFits
from dynamo.llm._capabilities import common_capabilities
from dynamo.llm._kv_router.config import RouterMode
from dynamo.llm._messages import PreprocessedRequest
from dynamo.llm._model_card import ModelCard
from dynamo.llm._routing import NO_HINTS, Route, Router, RoutingHints
from dynamo.llm._routing_modes import ModeRouter
from dynamo.runtime import Client, ResponseStream

T = TypeVar("T")

_NOTHING: Mapping[str, object] = {}
#: Stands in the `runtime_config` of a router's card, and says whose requests it passes on.
ROUTES_TO = "routes_to"


class Serving:
    """The instances whose cards say that they serve a model. Their owner changes them as cards come and go."""

    def __init__(self) -> None:
        #: By instance.
        self.cards: dict[int, ModelCard] = {}
        #: What all of them can do; None: everything.
        self.capabilities: frozenset[str] | None = None
        self._grown = asyncio.Event()

    def add(self, instance_id: int, card: ModelCard) -> None:
        """Count an instance among them, or put its new card in the place of the one before."""
        self.cards[instance_id] = card
        self.capabilities = common_capabilities(self.cards.values())
        self._grown.set()

    def discard(self, instance_id: int) -> None:
        """Count an instance out; one that is not there is no error."""
        self.cards.pop(instance_id, None)
        self.capabilities = common_capabilities(self.cards.values())

    @property
    def are_routers(self) -> bool:
        """Whether the instances pass requests on to workers of their own."""
        return any(ROUTES_TO in card.runtime_config for card in islice(self.cards.values(), 1))

    async def wait_for_growth(self) -> None:
        """Wait until another one comes."""
        self._grown.clear()
        await self._grown.wait()


class _Barred:
    """Those that must not be asked: who is to be avoided, and who does not serve the model when that is asked.

    A request that nobody has begun may find instances that have come since it was sent.
    """

    __slots__ = ("_avoid", "_serving")

    def __init__(self, serving: Container[int], avoid: Container[int]) -> None:
        self._serving = serving
        self._avoid = avoid

    def __contains__(self, id: object) -> bool:
        return id not in self._serving or id in self._avoid


class Workers:
    """The instances of one endpoint that serve a model."""

    def __init__(self, model: str, client: Client, serving: Serving | None, rng: random.Random) -> None:
        self.client = client
        #: Chooses who is asked; None: whoever's turn it is.
        self.router: Router | None = None
        self._model = model
        # None: all instances do.
        self._serving = serving
        # For requests that have wishes of their own, where there is no router.
        self._in_turn = ModeRouter(RouterMode.RoundRobin, self, rng, asyncio.get_running_loop().time)

    async def close(self) -> None:
        """Stop following the instances. Requests that run keep what they need until they end."""
        if self.router is not None:
            await self.router.close()
        await self.client.close()

    def instance_ids(self) -> list[int]:
        """The ids of the instances that may be asked, in ascending order."""
        ids = self.client.instance_ids()
        return ids if self._serving is None else [id for id in ids if id in self._serving.cards]

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        """What the model card of an instance says of it; empty if it has none."""
        card = None if self._serving is None else self._serving.cards.get(instance_id)
        return _NOTHING if card is None else card.runtime_config

    def hand_on(self, request: object, hints: RoutingHints) -> tuple[object, RoutingHints]:
        """Return a request and its hints as they are to be heeded here: what is for routers is in the request then."""
        if hints is NO_HINTS or self._serving is None or not self._serving.are_routers:
            return request, hints
        assert isinstance(request, PreprocessedRequest), "a router takes tokens"
        told = msgspec.structs.replace(request, routing=hints.wishes, router_config_override=hints.override)
        return told, RoutingHints(session_id=hints.session_id, explanation=hints.explanation)

    def is_routed(self, hints: RoutingHints) -> bool:
        """Whether somebody chooses who is asked, or a request with these hints chooses itself."""
        return self.router is not None or hints.need_route

    async def place(
        self, request: object, context: Context, hints: RoutingHints, *, avoid: Collection[int] = ()
    ) -> Route:
        """Ask where a request goes that is routed. Raises `NoInstances` if there is no worker, or none that fits."""
        self._check_alive(avoid)
        token_ids = request.token_ids if isinstance(request, PreprocessedRequest) else None
        # Which of the routers passes a request on to the worker that it names is all the same.
        router = self._in_turn if _names_worker(request) else self.router or self._in_turn
        try:
            return await router.place(hints.asked(request, context, token_ids, avoid))
        except NoInstances as error:
            self._check_alive(avoid)  # others may have gone while it waited
            raise NoWorkerFits(error.message, **error.details) from error

    async def send(
        self,
        request: object,
        context: Context,
        item_type: type[T],
        *,
        avoid: Collection[int] = (),
        route: Route | None = None,
    ) -> ResponseStream[T]:
        """Send a request by its route, or else to the next of the workers, but to none of those to avoid.

        Raises `NoInstances` if none is left.
        """
        self._check_alive(avoid)
        barred: Container[int] = avoid if self._serving is None else _Barred(self._serving.cards, avoid)
        if route is None:
            return await self.client.round_robin(request, context=context, item_type=item_type, avoid=barred)
        return await self.client.chosen(
            lambda _: _for_rank(request, route.dp_rank), _fitting(route), context, item_type=item_type, avoid=barred
        )

    def _check_alive(self, avoid: Collection[int]) -> None:
        num_workers = len(self.instance_ids())
        if not num_workers:
            raise NoInstances(f"no live worker serves the model {self._model!r} right now", model=self._model)
        if not self.has_another(avoid):
            raise NoInstances(
                f"the request was lost by each of the {num_workers} workers that serve the model {self._model!r} now",
                model=self._model,
                code="no_worker_left",
            )

    def has_another(self, avoid: Collection[int]) -> bool:
        """Whether there is a worker beside those to avoid."""
        return any(id not in avoid for id in self.instance_ids())

    async def wait_for_another(self, avoid: Collection[int], timeout_s: float) -> None:
        """Wait until there is a worker beside those to avoid. Raises `NoInstances` if none comes in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.has_another(avoid):
                    await self._wait_for_change(avoid)
        except TimeoutError as error:
            raise NoInstances(
                f"no other worker came for the model {self._model!r} within {timeout_s:.0f} s", model=self._model
            ) from error

    async def _wait_for_change(self, avoid: Collection[int]) -> None:
        changes = [asyncio.ensure_future(self.client.wait_for_change())]
        if self._serving is not None:
            changes.append(asyncio.ensure_future(self._serving.wait_for_growth()))
        try:
            await asyncio.sleep(0)  # from here on they listen; what came before is there already
            if self.has_another(avoid):
                return
            done, _ = await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            for change in done:
                change.result()
        except DynamoError as error:
            raise NoInstances(f"the model {self._model!r} is gone", model=self._model) from error
        finally:
            for change in changes:
                change.cancel()
            await asyncio.gather(*changes, return_exceptions=True)


def _names_worker(request: object) -> bool:
    """Whether a router is told who is to take it."""
    routing = request.routing if isinstance(request, PreprocessedRequest) else None
    return routing is not None and routing.backend_instance_id is not None


def _fitting(route: Route) -> Callable[[list[int]], int]:
    def choose(ids: list[int]) -> int:
        try:
            return route.choose(ids)
        except NoInstances as error:
            raise NoWorkerFits(error.message, **error.details) from error

    return choose


def _for_rank(request: object, dp_rank: int | None) -> object:
    """Return a request that says which rank is to take it. One in words says what its sender has said."""
    if dp_rank is None or not isinstance(request, PreprocessedRequest):
        return request
    return msgspec.structs.replace(request, dp_rank=dp_rank)
