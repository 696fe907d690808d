"""Engines that are Python generators, as models of a system that is this process's own.

Each is served at an endpoint there and registered, in the way in which `llmctl` registers the models of workers that
take text: from there on nothing is special about them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from dynamo._core.address import EndpointId
from dynamo._core.errors import DynamoError, InvalidArgument, NotFound
from dynamo.llm._entrypoint_engines import PythonAsyncEngine
from dynamo.llm._registration import PUBLIC_NAMESPACE, Kind, Registration
from dynamo.runtime import DistributedRuntime, ServedEndpoint
from dynamo.runtime._arguments import check_type

MODELS_MAX = 1024
#: A model that was added can be asked after milliseconds; after so long it is a fault.
READY_TIMEOUT_S = 10.0
_LOOK_S = 0.005

_NAMESPACE, _COMPONENT = "python", "engine"

#: The live instances of each model that can be asked.
Instances = Callable[[], dict[str, list[str]]]


@dataclass(frozen=True)
class _Served:
    engine: PythonAsyncEngine
    registration: Registration
    endpoint: ServedEndpoint

    @property
    def instance(self) -> str:
        return f"{self.endpoint.id}/{self.endpoint.instance_id:x}"


class PythonModels:
    """What has been added and not been removed, and while `keep` runs, what is served of it."""

    def __init__(self) -> None:
        # What is to be served, by kind and name.
        self._wanted: dict[tuple[Kind, str], PythonAsyncEngine] = {}
        # What is served, changed by keep() only, and the ends of what no longer is.
        self._served: dict[tuple[Kind, str], _Served] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()

    def add(self, kind: Kind, model: str, engine: PythonAsyncEngine) -> None:
        """Have `engine` answer. Raises as `HttpService` says."""
        check_type("model", model, str, "the name of a model")
        check_type("engine", engine, PythonAsyncEngine, "an HttpAsyncEngine or a PythonAsyncEngine")
        Registration(model, kind, EndpointId(_NAMESPACE, _COMPONENT, "0"))  # checks the name
        if (kind, model) in self._wanted:
            raise InvalidArgument(f"model={model!r} has been added for {kind.word}: remove it first", parameter="model")
        if len(self._wanted) >= MODELS_MAX:
            raise InvalidArgument(f"model={model!r}: {MODELS_MAX} have been added, which is all", parameter="model")
        self._wanted[kind, model] = engine
        self._note_change()

    def remove(self, kind: Kind, model: str) -> None:
        """Have nobody answer. Raises as `HttpService` says."""
        check_type("model", model, str, "the name of a model")
        if self._wanted.pop((kind, model), None) is None:
            known = ", ".join(self.names(kind)) or "none"
            raise NotFound(f"model={model!r} has not been added for {kind.word}; there are: {known}", parameter="model")
        self._note_change()

    def names(self, kind: Kind) -> list[str]:
        """The names of what has been added, in order."""
        return sorted(model for of, model in self._wanted if of is kind)

    def check_loops(self) -> None:
        """Raise `InvalidArgument` if an engine needs another event loop than the one that runs."""
        for engine in self._wanted.values():
            engine.check_loop()

    async def settled(self) -> None:
        """Wait until what is served is what has been added."""
        await self._settled.wait()

    async def keep(self, runtime: DistributedRuntime, instances: Instances) -> None:
        """Serve what has been added, and no longer what has been removed, until it is cancelled."""
        try:
            while True:
                self._changed.clear()
                gone = await self._take_away(runtime)
                for key, engine in list(self._wanted.items()):
                    if key not in self._served:
                        self._served[key] = await self._serve(runtime, *key, engine)
                await self._until_seen(instances, gone)
                for one in gone:
                    self._end(one)
                if not self._changed.is_set():
                    self._settled.set()
                await self._changed.wait()
        finally:
            self._settled.clear()
            self._served.clear()  # they end with the runtime
            for ending in self._ending:
                ending.cancel()

    async def _serve(self, runtime: DistributedRuntime, kind: Kind, model: str, engine: PythonAsyncEngine) -> _Served:
        endpoint = runtime.namespace(_NAMESPACE).component(_COMPONENT).endpoint(f"generate{next(self._numbers)}")
        registration = Registration(model, kind, endpoint.id)
        served = await endpoint.serve(engine.generate)
        await runtime.discovery.put(registration.key(PUBLIC_NAMESPACE), registration.to_json())
        return _Served(engine, registration, served)

    async def _take_away(self, runtime: DistributedRuntime) -> list[_Served]:
        """Unregister what has been removed, or been replaced; return it."""
        gone = [key for key, one in self._served.items() if self._wanted.get(key) is not one.engine]
        for key in gone:
            await runtime.discovery.delete(self._served[key].registration.key(PUBLIC_NAMESPACE))
        return [self._served.pop(key) for key in gone]

    async def _until_seen(self, instances: Instances, gone: list[_Served]) -> None:
        """Wait until exactly what is served can be asked."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while True:
                    if self._is_seen(instances(), gone):
                        return
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise DynamoError(f"the models could not be asked within {READY_TIMEOUT_S:g} s; the log says why") from None

    def _is_seen(self, seen: dict[str, list[str]], gone: list[_Served]) -> bool:
        here = (one.instance in seen.get(one.registration.model, ()) for one in self._served.values())
        return all(here) and not any(one.instance in seen.get(one.registration.model, ()) for one in gone)

    def _end(self, one: _Served) -> None:
        """Let the requests that run at what is gone finish, beside everything else."""
        ending = asyncio.create_task(one.endpoint.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _note_change(self) -> None:
        self._settled.clear()
        self._changed.set()
