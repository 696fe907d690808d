"""The workers behind the router: which instances of their endpoint requests may go to, and sending one there.

The first worker's model card says what the others must be like: one that differs gets nothing until those that it
differs from are gone, and never if its block size does. Where a person said the block size, instances without a card
are workers, too; else nobody knows what they serve.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from dynamo._core.address import MODEL_CARDS, parse_key
from dynamo._core.context import Context
from dynamo._core.discovery.base import Put
from dynamo._core.errors import CannotConnect, ConfigError, NoInstances
from dynamo.llm._capabilities import common_capabilities
from dynamo.llm._card_difference import difference
from dynamo.llm._following import card_of, follow
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._model_card import ModelCard, ModelInput
from dynamo.runtime import Client, Endpoint, ResponseStream

logger = logging.getLogger(__name__)

#: How often somebody who waits for a first worker is reminded.
REMINDER_S = 30.0
#: Discovery says so soon who is there.
FIRST_LOOK_S = 30.0
#: Changes that nobody tells of are seen after so long.
LOOK_S = 1.0
NAMED_MAX = 8

_NOTHING: Mapping[str, object] = {}


class EndpointWorkers:
    """The instances of an endpoint that the router sends to; see `RoutedWorkers`. To be used with `async with`."""

    def __init__(self, endpoint: Endpoint, client: Client, block_size: int | None) -> None:
        self.endpoint = endpoint
        self.client = client
        #: Tokens in a block of their caches; None: the first card will say.
        self.block_size = block_size
        self._needs_cards = block_size is None
        self.barred = _Barred(self)
        # The mutable state, changed by _put() and _delete(): all cards, by instance; those that agree, the first of
        # which all are compared with; and why the others are refused.
        self._cards: dict[int, ModelCard] = {}
        self._accepted: dict[int, ModelCard] = {}
        self._refused: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._is_synced = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EndpointWorkers:
        """Follow the cards, from those that there are. Raises `ConfigError` if all are of workers with other blocks."""
        prefix = self.endpoint.id.model_card_key(0).removesuffix("0")
        following = follow(self.endpoint.runtime, prefix, self._put, self._delete, self._is_synced.set)
        self._following = asyncio.create_task(following)
        try:
            await self._first_look()
            self._check_block_size()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    # What the router asks.

    def instance_ids(self) -> list[int]:
        """Those that are alive and may be asked, in ascending order."""
        return [id for id in self.client.instance_ids() if self.may_be_asked(id)]

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        """What the worker's model card says of it; empty if it has none."""
        card = self._accepted.get(instance_id)
        return _NOTHING if card is None else card.runtime_config

    def may_be_asked(self, instance_id: int) -> bool:
        """Whether an instance is one of the workers."""
        if self._needs_cards:
            return instance_id in self._accepted
        return instance_id not in self._refused

    @property
    def card(self) -> ModelCard | None:
        """What the workers serve, as one of them says it; None if none of them has said."""
        return next(iter(self._accepted.values()), None)

    @property
    def capabilities(self) -> frozenset[str] | None:
        """What all of the workers can do that have said so; None: everything."""
        return common_capabilities(self._accepted.values())

    # What whoever runs the router asks.

    def check_alive(self) -> None:
        """Raise `NoInstances`, with all that is known of why, if there is no worker."""
        if not self.instance_ids():
            raise NoInstances(f"the router has no worker: {self._why_nobody()}", endpoint=str(self.endpoint.id))

    async def send(
        self, request: Mapping[str, object], route: KvRoute, context: Context
    ) -> ResponseStream[dict[str, object]]:
        """Send a request where its route says. Raises `NoInstances` if there is no worker for it."""

        def for_rank(_: int) -> Mapping[str, object]:
            return request if route.dp_rank is None else {**request, "dp_rank": route.dp_rank}

        return await self.client.chosen(for_rank, route.choose, context, item_type=dict[str, object], avoid=self.barred)

    async def wait_for_block_size(self) -> int:
        """Wait for a first worker if nobody has said the size of blocks; return it."""
        while self.block_size is None:
            logger.warning("waiting for a worker: %s%s", self._why_nobody(), await self._others())
            try:
                async with asyncio.timeout(REMINDER_S):
                    while self.block_size is None:
                        await self.wait_for_change()
            except TimeoutError:
                continue
        return self.block_size

    async def wait_for_change(self) -> None:
        """Wait until workers may have come or gone. Raises `DynamoError` if none can come any more."""
        self._changed.clear()
        changes = [asyncio.ensure_future(one) for one in (self._changed.wait(), self.client.wait_for_change())]
        try:
            done, _ = await asyncio.wait(changes, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for change in done:
                change.result()
        finally:
            for change in changes:
                change.cancel()
            await asyncio.gather(*changes, return_exceptions=True)

    def _why_nobody(self) -> str:
        at, num = self.endpoint.id, len(self.client.instance_ids())
        if not num:
            return f"nobody serves {at}"
        if self._refused:
            id, why = next(iter(self._refused.items()))
            return f"none of the {num} instances of {at} fits, such as {id:x}: {why}"
        return (
            f"no instance of {at} has a model card ({num} are there): have them register a model, or give --block-size"
        )

    async def _others(self) -> str:
        """Who else has model cards: it may be a slip of the pen."""
        found = {str(parse_key(key)[0]) for key in await self.endpoint.runtime.discovery.get_prefix(MODEL_CARDS)}
        names = sorted(found - {str(self.endpoint.id)})
        if not names:
            return ""
        return f"; there are workers at {', '.join(names[:NAMED_MAX])}" + (", ..." if len(names) > NAMED_MAX else "")

    # Following the cards.

    async def _first_look(self) -> None:
        """Wait until all cards that there are were seen. Raises what ends the watch, or `CannotConnect`."""
        assert self._following is not None
        seen = asyncio.ensure_future(self._is_synced.wait())
        try:
            await asyncio.wait((seen, self._following), timeout=FIRST_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            seen.cancel()
        if self._following.done():
            self._following.result()
        if not self._is_synced.is_set():
            raise CannotConnect(f"discovery has not said within {FIRST_LOOK_S:g} s who serves {self.endpoint.id}")

    def _check_block_size(self) -> None:
        """Raise `ConfigError` if there are workers that take tokens, and what alone is wrong is the size of blocks."""
        differ = [
            id
            for id, card in self._cards.items()
            if card.model_input is ModelInput.Tokens and self.block_size not in (None, card.kv_cache_block_size)
        ]
        if differ and len(differ) == len(self._cards):
            raise ConfigError(
                f"the worker {differ[0]:x} at {self.endpoint.id} cannot be routed to: {self._refused[differ[0]]}",
                setting="block_size",
            )

    async def _put(self, change: Put) -> None:
        if (found := card_of(change)) is None:
            return
        _, id, card = found
        if card.is_settling:  # whether it may stay is not known yet
            return
        if self._cards.get(id) != card:  # discovery may say the same again
            self._note(id, card)

    async def _delete(self, key: str) -> None:
        self._note(parse_key(key)[1], None)

    def _note(self, id: int, card: ModelCard | None) -> None:
        """Put a card in the place of the one before, or of none; None: it is gone."""
        was_accepted = self._accepted.pop(id, None) is not None
        self._refused.pop(id, None)
        self._cards.pop(id, None)
        to_judge = {} if card is None else {id: card}
        if was_accepted and not self._accepted:
            # Those that differed from the others may now agree among themselves.
            to_judge |= {other: self._cards[other] for other in self._refused}
            self._refused.clear()
        for other, its_card in to_judge.items():
            self._cards[other] = its_card
            self._judge(other, its_card)
        self._changed.set()

    def _judge(self, id: int, card: ModelCard) -> None:
        if why := self._objection(card):
            self._refused[id] = why
            logger.error("the worker %x at %s gets no requests: %s", id, self.endpoint.id, why)
            return
        self._accepted[id] = card
        if self.block_size is None:
            self.block_size = card.kv_cache_block_size

    def _objection(self, card: ModelCard) -> str | None:
        """Say why the worker with this card cannot be one of them; None if it can."""
        if card.model_input is not ModelInput.Tokens:
            return f"it takes {card.model_input.value}, and this router needs workers that take tokens"
        if self.block_size not in (None, card.kv_cache_block_size):
            return (
                f"its KV cache block size is {card.kv_cache_block_size}, and that of this router is {self.block_size}"
            )
        ours = self.card
        if ours is None:
            return None
        if card.display_name != ours.display_name:
            return f"its model is {card.display_name}, and that of the workers that are there is {ours.display_name}"
        return difference(card, ours, "the workers that are there")


class _Barred:
    """The instances that are no workers, as a client wants to know them."""

    __slots__ = ("_workers",)

    def __init__(self, workers: EndpointWorkers) -> None:
        self._workers = workers

    def __contains__(self, id: object) -> bool:
        return not (isinstance(id, int) and self._workers.may_be_asked(id))
