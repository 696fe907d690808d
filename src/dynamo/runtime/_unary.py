"""Endpoints with exactly one response to a request, in the names of 1.x."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from dynamo._core.errors import DynamoError
from dynamo._core.stability import beta
from dynamo.runtime._arguments import check_type, wrong_type
from dynamo.runtime._client import Client
from dynamo.runtime._codec import JsonValue
from dynamo.runtime._component import Endpoint
from dynamo.runtime._serving import EndpointHandler

if TYPE_CHECKING:
    from dynamo._core.context import Context


@beta(since="0.1")
class UnaryClient:
    """Calls an endpoint that gives one response to a request. It does not own the client that it calls through."""

    def __init__(self, client: Client) -> None:
        check_type("client", client, Client, "what `runtime.client(...)` returned")
        self._client = client

    async def complete(self, request: object, context: Context | None = None) -> JsonValue:
        """Call an instance chosen at random, and return its response.

        Raises `DynamoError` if there is none, or more than one; otherwise what `Client.generate` raises, and its
        stream.
        """
        async with await self._client.generate(request, annotated=False, context=context) as stream:
            items = []
            async for item in stream:
                items.append(item)
                if len(items) > 1:
                    break
        if len(items) != 1:
            number = "no response" if not items else "more than one"
            raise DynamoError(f"{self._client.endpoint} gave {number}, and one was expected: use `Client.generate`")
        return items[0]


@beta(since="0.1")
async def serve_unary_endpoint(endpoint: Endpoint, handler: EndpointHandler) -> None:
    """Serve an endpoint whose handler returns its one response; stay until the runtime shuts down.

    Raises TypeError for a handler that yields. `Endpoint.serve_endpoint` serves any handler, with its errors.
    """
    check_type("endpoint", endpoint, Endpoint, "what `runtime.endpoint(...)` returned")
    if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
        raise wrong_type("handler", handler, "a function that returns one response, or serve it with serve_endpoint")
    await endpoint.serve_endpoint(handler)
