"""What a worker generates for a request that the KV router has sent to it."""

from __future__ import annotations

import asyncio

from dynamo.llm._kv_router.decision import Decision
from dynamo.llm._kv_router.route import KvRoute
from dynamo.runtime import ResponseStream


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
        token_ids = output.get("token_ids")
        if isinstance(token_ids, list):
            self._route.note_tokens(len(token_ids))
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
