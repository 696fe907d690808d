"""What a worker generates for a request that the KV router has sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dynamo.llm._kv_router.decision import Decision
from dynamo.llm._kv_router.route import KvRoute
from dynamo.runtime import ResponseStream


def note_output(route: KvRoute, output: Mapping[str, object]) -> None:
    """Tell a route what its worker has generated, and whether it says what it had cached: an `EngineOutput` as sent."""
    token_ids, usage = output.get("token_ids"), output.get("completion_usage")
    if isinstance(token_ids, list):
        route.note_tokens(len(token_ids))
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    if isinstance(details, Mapping) and isinstance(num_cached := details.get("cached_tokens", 0), int):
        route.note_cached(num_cached)


class RoutedStream:
    """The outputs of one request, in order; its load is given back at the end, or when it is closed."""

    def __init__(self, stream: ResponseStream[dict[str, object]], route: KvRoute) -> None:
        self._stream = stream
        self._route = route
        self._loop = asyncio.get_running_loop()

    @property
    def instance_id(self) -> int:
        """Who serves the request."""
        return self._stream.instance_id

    @property
    def decision(self) -> Decision | None:
        """Why it went there."""
        return self._route.decision

    def __aiter__(self) -> RoutedStream:
        return self

    async def __anext__(self) -> dict[str, object]:
        try:
            output = await anext(self._stream)
        except BaseException:
            await self.aclose()
            raise
        self._route.note_answer()
        note_output(self._route, output)
        return output

    async def aclose(self) -> None:
        """Cancel the work behind the stream, and give its load back. A second call changes nothing."""
        self._route.close()
        await self._stream.aclose()

    async def __aenter__(self) -> RoutedStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A reader that breaks out of its loop and drops the stream must not leave its load booked.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._route.close)
