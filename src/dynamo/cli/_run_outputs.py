"""Who answers: an engine in this process, or workers elsewhere. To who asks, both are a runtime with models.

An engine here is a worker like any other: it is served, registered and called through a runtime, whose
planes just do not leave the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeVar

from dynamo._core.address import MODEL_CARDS, REGISTRATIONS, EndpointId
from dynamo._core.discovery import DiscoveryStatus, discovery_url_from_env, open_discovery
from dynamo._core.discovery.base import LEASE_TTL_S, Change, Discovery, Lease
from dynamo._core.errors import EngineShutdown
from dynamo.cli._run_engines import LocalEngine
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._model_card import ModelInput, ModelType
from dynamo.llm._register import register_llm, serve_engine, unregister_llm
from dynamo.runtime import DistributedRuntime

T = TypeVar("T")

#: Waits until who answers ends by itself, and returns why.
Ended = Callable[[], Awaitable[EngineShutdown]]


#: A model of this process is loaded already; this is for its tokenizer and its template.
READY_TIMEOUT_S = 60.0


class Answering(Protocol):
    """Whoever answers, for who asks."""

    #: Models are looked for in this namespace only; None: in all.
    namespace: str | None
    #: The model to ask; None: the only one that there is.
    model_name: str | None
    #: Whether it is this process that answers.
    is_here: bool
    #: How long to wait for the model.
    ready_timeout_s: float

    def runtime(self) -> AbstractAsyncContextManager[DistributedRuntime]:
        """Join the system in which the model is found."""

    def serving(self, runtime: DistributedRuntime) -> AbstractAsyncContextManager[Ended]:
        """See to it that somebody serves the model."""


class EngineHere:
    """An engine in this process answers."""

    is_here = True
    ready_timeout_s = READY_TIMEOUT_S

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self.namespace: str | None = None
        self.model_name: str | None = engine.options.model_name or default_model_name(engine.options.model_path)

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator[DistributedRuntime]:
        """A system of its own, which nobody else can join."""
        async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
            yield runtime

    @asynccontextmanager
    async def serving(self, runtime: DistributedRuntime) -> AsyncIterator[Ended]:
        """Start the engine, and tell `runtime` about its model."""
        options = self._engine.options
        path = await fetch_llm(options.model_path, ignore_weights=not self._engine.needs_weights)
        engine = await self._engine.start(path)
        try:
            endpoint = runtime.namespace(options.namespace).component(options.component).endpoint(options.endpoint)
            served = await serve_engine(endpoint, engine)
            await register_llm(
                ModelInput.Tokens,
                ModelType.parse(options.endpoint_types),
                endpoint,
                str(path),
                self.model_name,
                context_length=engine.max_context_length,
                custom_template_path=options.custom_jinja_template,
            )
            yield engine.ended
            await unregister_llm(endpoint)
            await served.close()
        finally:
            await engine.close()


class WorkersElsewhere:
    """Workers answer that discovery knows: those of one endpoint, or all of them."""

    is_here = False

    def __init__(
        self, endpoint: EndpointId | None, model_name: str | None, wait_s: float, environ: Mapping[str, str]
    ) -> None:
        self._endpoint = endpoint
        self._environ = environ
        self.ready_timeout_s = wait_s
        self.namespace = environ.get("DYN_NAMESPACE") or None if endpoint is None else endpoint.namespace
        self.model_name = model_name

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator[DistributedRuntime]:
        """The system that the environment names."""
        if self._endpoint is None:
            async with DistributedRuntime() as runtime:
                yield runtime
            return
        discovery = OneEndpoint(open_discovery(discovery_url_from_env(self._environ)), self._endpoint)
        try:
            async with DistributedRuntime(discovery=discovery) as runtime:
                yield runtime
        finally:
            await discovery.close()

    @asynccontextmanager
    async def serving(self, runtime: DistributedRuntime) -> AsyncIterator[Ended]:
        """They serve already; one that ends is the business of the others."""
        yield _never


async def until_ended(ended: Ended, work: Coroutine[object, object, T]) -> T:
    """Do the work. If who answers ends before it is done, stop it, and raise why."""
    working, ending = asyncio.ensure_future(work), asyncio.ensure_future(ended())
    try:
        await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ending.result()
        return working.result()
    finally:
        working.cancel()
        ending.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


async def _never() -> EngineShutdown:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")


class OneEndpoint:
    """A discovery in which only the models that workers serve at one endpoint can be seen. All else is as it is."""

    def __init__(self, discovery: Discovery, endpoint: EndpointId) -> None:
        self._discovery = discovery
        self._cards = endpoint.model_card_key(0).removesuffix("0")

    @property
    def status(self) -> DiscoveryStatus:
        return self._discovery.status

    async def grant(self, ttl_s: float = LEASE_TTL_S) -> Lease:
        return await self._discovery.grant(ttl_s)

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await self._discovery.put(key, value, lease)

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> bool:
        return await self._discovery.create(key, value, lease)

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        return await self._discovery.get_prefix(self._seen(prefix))

    async def delete(self, key: str) -> None:
        await self._discovery.delete(key)

    def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        return self._discovery.watch(self._seen(prefix))

    async def close(self) -> None:
        await self._discovery.close()

    def _seen(self, prefix: str) -> str:
        if prefix.startswith(REGISTRATIONS):
            return f"{REGISTRATIONS}./"  # there is nothing: no name begins with a dot
        return self._cards if prefix == MODEL_CARDS else prefix
