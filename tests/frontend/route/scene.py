"""A route in this process, in front of servers of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx

from dynamo.frontend._route.config import RouteConfig
from dynamo.frontend._route.serving import RouteServer
from dynamo.runtime import DistributedRuntime

DEADLINE_S = 60.0
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
#: Enough text for many blocks.
LONG = "The quick brown fox jumps over the lazy dog. " * 60


def chat(text: str, **more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


class Routing:
    """A route that runs, and a client of it."""

    def __init__(self, server: RouteServer, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client

    async def post(self, body: object, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=named)

    async def health(self) -> dict[str, object]:
        body: dict[str, object] = (await self.client.get("/health")).json()
        return body

    async def metric(self, line: str) -> float:
        """The value of a metric; 0 if it is not there."""
        text = (await self.client.get("/metrics")).text
        return next((float(one.rpartition(" ")[2]) for one in text.splitlines() if one.startswith(line + " ")), 0.0)


@asynccontextmanager
async def routing(*urls: str, is_ready: bool = True, **settings: object) -> AsyncIterator[Routing]:
    """Route to these; wait until each was looked at and one is well, unless that will not come."""
    config = RouteConfig(
        **{  # type: ignore[arg-type]  # as the test says
            "backend": " ".join(urls),
            "http_port": 0,
            "drain_s": 0.0,
            "check_interval_s": 0.1,
            "router_mode": "round-robin",
            **settings,
        }
    )
    server = RouteServer(config)
    runtime = DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:")
    async with runtime:
        url = await server.start(runtime)
        try:
            if is_ready:
                async with asyncio.timeout(DEADLINE_S):
                    await server.wait_ready()
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
                yield Routing(server, client)
        finally:
            await server.stop()


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, which nobody tells of."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110 - it is seen only by looking
            await asyncio.sleep(0.01)
