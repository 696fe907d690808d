"""The workers of one model: which of an endpoint's instances may be asked, and asking one of them.

An instance may serve the endpoint and still not the model: its card has not come yet, or was refused.
No request goes there, for its answers could be those of another model. Only where a person said that the
endpoint serves the model, every instance of it does.
"""

from __future__ import annotations

from typing import TypeVar

from dynamo._core.context import Context
from dynamo._core.errors import NoInstances
from dynamo.runtime import Client, ResponseStream

T = TypeVar("T")


class Workers:
    """The instances of one endpoint that serve a model."""

    def __init__(self, model: str, client: Client, serving: set[int] | None) -> None:
        self.client = client
        self._model = model
        # Whose cards say that they serve the model; None: all do. The owner changes it as cards come and go.
        self._serving = serving
        self._last_id = -1

    def instance_ids(self) -> list[int]:
        """The ids of the instances that may be asked, in ascending order."""
        ids = self.client.instance_ids()
        return ids if self._serving is None else [id for id in ids if id in self._serving]

    async def send(self, request: object, context: Context, item_type: type[T]) -> ResponseStream[T]:
        """Send a request to the next of the workers. Raises `NoInstances` if there is none."""
        ids = self.instance_ids()
        if not ids:
            raise NoInstances(f"no live worker serves the model {self._model!r} right now", model=self._model)
        if len(ids) == len(self.client.instance_ids()):
            return await self.client.round_robin(request, context=context, item_type=item_type)
        self._last_id = next((id for id in ids if id > self._last_id), ids[0])
        return await self.client.direct(request, self._last_id, context=context, item_type=item_type)
