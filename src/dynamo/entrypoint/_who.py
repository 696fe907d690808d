"""The two who can answer: an engine of this process, and the workers that a runtime sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from dynamo._core.address import EndpointId
from dynamo.entrypoint._answering import Ended, served_elsewhere
from dynamo.entrypoint._engines import LocalEngine, served
from dynamo.entrypoint._one_endpoint import seeing_only
from dynamo.runtime import DistributedRuntime

#: A model of this process is loaded already; this is for its tokenizer and its template.
READY_TIMEOUT_S = 60.0
#: Workers may have to be started yet.
WAIT_S = 30.0


class EngineHere:
    """An engine in this process answers. Its system server, if the environment asks for one, may be another's job."""

    is_here = True
    ready_timeout_s = READY_TIMEOUT_S

    def __init__(self, engine: LocalEngine, *, system_server: bool = True) -> None:
        self._engine = engine
        self._system_server = system_server
        self.namespace: str | None = None
        self.model_name: str | None = engine.model_name

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator[DistributedRuntime]:
        """A system of its own, which nobody else can join."""
        async with DistributedRuntime(
            discovery="memory:", request_plane="inproc:", event_plane="inproc:", system_server=self._system_server
        ) as runtime:
            yield runtime

    def serving(self, runtime: DistributedRuntime) -> AbstractAsyncContextManager[Ended]:
        """Start the engine, and tell `runtime` about its model."""
        return served(self._engine, runtime)


class WorkersOf:
    """The workers answer that `runtime` sees: those of one endpoint, of one namespace, or all of them."""

    is_here = False
    ready_timeout_s = WAIT_S

    def __init__(
        self, runtime: DistributedRuntime, endpoint: EndpointId | None, namespace: str | None, model_name: str | None
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self.namespace = namespace if endpoint is None else endpoint.namespace
        self.model_name = model_name

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator[DistributedRuntime]:
        """The runtime itself, or one beside it that sees that endpoint only."""
        if self._endpoint is None:
            yield self._runtime
            return
        async with seeing_only(self._runtime, self._endpoint) as narrowed:
            yield narrowed

    def serving(self, runtime: DistributedRuntime) -> AbstractAsyncContextManager[Ended]:
        """They serve already."""
        return served_elsewhere()
