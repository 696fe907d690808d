"""Whether a worker that registers a model agrees with those that serve it, and who gives way if two do not.

Of workers that differ, the later one is refused. Discovery knows no order, and two may come at the same moment; so a
card says at first that it is settling, and frontends take no notice of it. Its worker then looks at the others:

- One that differs and stands is in the way: this worker gives way.
- So is one that differs and is settling, too, if its id is lower. If it is higher, this worker waits for what becomes
  of it: it may have looked before this one's card was there, and stand in a moment. Else it sees this one, and goes.

So two cards that differ never both stand: whoever has not seen the other has put its card before the other looked.
Whoever stands shows its card for good.

A worker that would rather wait gives way in the same manner, and then shows a card that says so. Frontends go on with
those that they know. Another worker is refused for the sake of one that waits only if nobody agrees with it: then
those that wait are the ones that serve.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator
from contextlib import aclosing

import msgspec

from dynamo._core.address import parse_key
from dynamo._core.discovery.base import LEASE_TTL_S, Discovery, Put, Synced
from dynamo._core.errors import DeadlineExceeded, DynamoError
from dynamo.llm._card_difference import difference
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import Endpoint

#: A worker that settles is done in a moment, or its card ends with its lease.
SETTLED_S = LEASE_TTL_S + 5.0


class _Fate(enum.Enum):
    """What became of a card that was settling."""

    STANDS = enum.auto()
    GONE = enum.auto()


class Agreement:
    """One registration: `settle` it, and `stand`, or `wait`, or `give_up`."""

    def __init__(self, endpoint: Endpoint, card: ModelCard) -> None:
        self._endpoint = endpoint
        self._discovery: Discovery = endpoint.runtime.discovery
        self._card = card
        self._id = endpoint.lease_id()
        self._key = endpoint.id.model_card_key(self._id)
        # What this worker has registered before, to be put back if the new card is not taken.
        self._before: bytes | None = None
        # The settling card that this one gave way to.
        self._rival: str | None = None

    async def settle(self, before: bytes | None) -> str | None:
        """Show the card as one that settles, and say why its worker must give way; None if it need not.

        `before` is what stood there. Raises `DeadlineExceeded` if another worker does not settle.
        """
        self._before = before
        await self._put(msgspec.structs.replace(self._card, is_settling=True))
        others = list(self._others(await self._discovery.get_prefix(self._prefix)))
        has_allies = any(not (other.is_settling or other.waits or self._differs(other, id)) for id, other in others)
        for id, other in others:
            why = self._differs(other, id)
            if why is None or (other.waits and has_allies):
                continue
            if not other.is_settling:
                return why
            key = self._endpoint.id.model_card_key(id)
            if id < self._id:
                self._rival = key
                return why
            if await self._fate_of(key) is _Fate.STANDS:
                return why
        return None

    async def stand(self) -> None:
        """Show the card for good."""
        await self._put(self._card)

    async def wait(self) -> None:
        """Show the card behind those that differ from it."""
        if self._rival is not None:
            await self._discovery.delete(self._key)  # it goes first: it may wait for this one
            await self._fate_of(self._rival)
        await self._put(msgspec.structs.replace(self._card, waits=True))

    async def give_up(self) -> None:
        """Put back what stood there before."""
        if self._before is None:
            await self._discovery.delete(self._key)
        else:
            await self._discovery.put(self._key, self._before, self._endpoint.lease)

    @property
    def _prefix(self) -> str:
        return self._endpoint.id.model_card_key(0).removesuffix("0")

    async def _put(self, card: ModelCard) -> None:
        await self._discovery.put(self._key, card.to_json(), self._endpoint.lease)

    def _others(self, values: dict[str, bytes]) -> Iterator[tuple[int, ModelCard]]:
        """The other workers of the model at this endpoint."""
        for key, value in values.items():
            try:
                card, (_, id) = ModelCard.from_json(value), parse_key(key)
            except DynamoError:
                continue  # it is nobody's worker
            if id != self._id and card.display_name == self._card.display_name:
                yield id, card

    def _differs(self, other: ModelCard, id: int) -> str | None:
        return difference(self._card, other, f"worker {id:x}")

    async def _fate_of(self, key: str) -> _Fate:
        """Wait until a card that is settling stands or is gone. One that waits has given way."""
        try:
            async with asyncio.timeout(SETTLED_S), aclosing(self._discovery.watch(key)) as changes:
                is_there = False
                async for change in changes:
                    if isinstance(change, Synced):
                        if not is_there:
                            return _Fate.GONE
                    elif change.key != key:
                        continue  # its key begins with this one
                    elif not isinstance(change, Put):
                        return _Fate.GONE
                    elif (card := ModelCard.from_json(change.value)).is_settling:
                        is_there = True
                    else:
                        return _Fate.GONE if card.waits else _Fate.STANDS
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"another worker of the model {self._card.display_name!r} has been registering for {SETTLED_S:g} s, "
                f"and differs from this one: see what became of it ({key})"
            ) from error
        raise DeadlineExceeded(f"discovery was closed before {key} had settled")
