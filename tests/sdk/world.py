"""A small world in one process: services that run, and a way to call them."""

from __future__ import annotations

from contextlib import AsyncExitStack

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import Client, DistributedRuntime
from dynamo.sdk import service_of
from dynamo.sdk._runner import ServiceRunner

DEADLINE_S = 60.0


class World:
    """A discovery and a request plane, on which services run and can be called."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._discovery = MemoryDiscovery()
        self._plane = InprocPlane()

    async def join(self) -> DistributedRuntime:
        runtime = DistributedRuntime(discovery=self._discovery, request_plane=self._plane)
        return await self._stack.enter_async_context(runtime)

    async def run(self, decorated: type) -> ServiceRunner:
        """Start a worker of the service; it ends with the test."""
        runner = ServiceRunner(service_of(decorated), await self.join())
        self._stack.push_async_callback(runner.stop)
        await runner.start()
        return runner

    async def client(self, decorated: type, endpoint: str) -> Client:
        namespace, component = service_of(decorated).dynamo_address()
        runtime = await self.join()
        return await runtime.namespace(namespace).component(component).endpoint(endpoint).client()

    async def call(self, decorated: type, endpoint: str, request: object) -> list[object]:
        """Return every item of the response."""
        client = await self.client(decorated, endpoint)
        return [item async for item in await client.generate(request, annotated=False)]
