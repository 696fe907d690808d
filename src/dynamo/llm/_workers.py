"""The workers of one model: which of an endpoint's instances may be asked, and asking one of them.

An instance may serve the endpoint and still not the model: its card has not come yet, or was refused.
No request goes there, for its answers could be those of another model. Only where a person said that the
endpoint serves the model, every instance of it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container
from typing import TypeVar

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, NoInstances
from dynamo.runtime import Client, ResponseStream

T = TypeVar("T")


class Serving:
    """The instances whose cards say that they serve a model. Their owner changes them as cards come and go."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._grown = asyncio.Event()

    def add(self, instance_id: int) -> None:
        self.ids.add(instance_id)
        self._grown.set()

    def discard(self, instance_id: int) -> None:
        self.ids.discard(instance_id)

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

    def __init__(self, model: str, client: Client, serving: Serving | None) -> None:
        self.client = client
        self._model = model
        # None: all instances do.
        self._serving = serving

    def instance_ids(self) -> list[int]:
        """The ids of the instances that may be asked, in ascending order."""
        ids = self.client.instance_ids()
        return ids if self._serving is None else [id for id in ids if id in self._serving.ids]

    async def send(
        self, request: object, context: Context, item_type: type[T], *, avoid: Collection[int] = ()
    ) -> ResponseStream[T]:
        """Send a request to the next of the workers beside those to avoid. Raises `NoInstances` if there is none."""
        ids = self.instance_ids()
        if not ids:
            raise NoInstances(f"no live worker serves the model {self._model!r} right now", model=self._model)
        barred: Container[int] = avoid if self._serving is None else _Barred(self._serving.ids, avoid)
        return await self.client.round_robin(request, context=context, item_type=item_type, avoid=barred)

    async def wait_for_another(self, avoid: Collection[int], timeout_s: float) -> None:
        """Wait until there is a worker beside those to avoid. Raises `NoInstances` if none comes in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while all(id in avoid for id in self.instance_ids()):
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
            if any(id not in avoid for id in self.instance_ids()):
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
