"""The life of one worker of a service, inside a running loop.

In order: the edges are bound, the context is filled, the instance is built, the startup hooks run, the
endpoints are served, and the services that it calls are found. Nobody can find the worker before its
hooks are done. The end is the reverse: nothing new is taken, what runs drains, the shutdown hooks run.
All of them run once the instance is built, whatever part of the start has failed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from dynamo._core.errors import DynamoError
from dynamo.runtime import DistributedRuntime, Endpoint, ServedEndpoint
from dynamo.runtime._blame import blame
from dynamo.runtime._component import Component
from dynamo.runtime._health import Ask, HealthCheck, HealthKind
from dynamo.runtime._lease import CustomLease
from dynamo.sdk._constructor import configured_arguments
from dynamo.sdk._context import clear_context, dynamo_context
from dynamo.sdk._handler import bind_handler
from dynamo.sdk._hooks import HookKind, contained, run_hook
from dynamo.sdk._proxy import ServiceProxy
from dynamo.sdk._runner_map import external_services
from dynamo.sdk._service import Service
from dynamo.sdk.lib.config import ServiceConfig

if TYPE_CHECKING:
    from dynamo.runtime._http_server import HttpServer

logger = logging.getLogger(__name__)

#: How long requests that run may take to end when the worker stops.
DRAIN_S = 20.0
#: How soon a readiness check that was not true is asked again. `dynamo serve` bounds the whole start.
READINESS_INTERVAL_S = 0.1
#: How long one shutdown hook may take; that of an HTTP frontend drains, too.
SHUTDOWN_HOOK_S = 25.0


class ServiceRunner:
    """One worker of a service. `start`, then `stop`, which may be called whatever became of `start`."""

    def __init__(
        self,
        service: Service[object],
        runtime: DistributedRuntime,
        *,
        worker_id: int = 1,
        http_socket: socket.socket | None = None,
        report: Callable[[str], None] = logger.debug,
        shutdown_hook_s: float = SHUTDOWN_HOOK_S,
    ) -> None:
        self._service = service
        self._runtime = runtime
        self._worker_id = worker_id
        self._http_socket = http_socket
        self._report = report
        self._shutdown_hook_s = shutdown_hook_s
        # What was started, so that it can be ended.
        self._proxies: list[ServiceProxy] = []
        self._lease: CustomLease | None = None
        self._endpoints: list[Endpoint] = []
        self._checks: list[HealthCheck] = []
        self._instance: object | None = None
        self._served: list[ServedEndpoint] = []
        self._http: HttpServer | None = None
        self._stopped = False

    async def start(self) -> None:
        """Return when the worker can be called and everything that it calls is there."""
        self._runtime.health.started = False
        self._proxies = self._service.bind(self._runtime)
        await self._fill_context()
        instance = self._instance = self._build()
        for name in self._service.hooks(HookKind.START):
            self._report(f"running the startup hook {name}")
            await run_hook(instance, name)
        self._answer_for(HookKind.LIVENESS, HealthKind.LIVENESS, instance)
        await self._serve(instance)
        for target, proxy in zip(self._service.edges().values(), self._proxies, strict=True):
            self._report(f"waiting for {target.name}")
            await ServiceProxy.connect(proxy)
        for name in self._service.hooks(HookKind.READINESS):
            self._report(f"waiting until {name} says that it is ready")
            while not await run_hook(instance, name):  # noqa: ASYNC110 - the user's own check has no event
                await asyncio.sleep(READINESS_INTERVAL_S)
        self._answer_for(HookKind.READINESS, HealthKind.READINESS, instance)
        self._runtime.health.started = True

    async def withdraw(self) -> None:
        """Be found and ready no more, and go on with what comes from those who have not heard of it. Then `stop`."""
        self._runtime.health.started = False
        await self._runtime.lease.close()
        if self._lease is not None:
            await self._lease.lease.close()  # not revoked: that would end the process

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no more requests, let those that run end, then run the shutdown hooks: each once, whatever fails.

        The first failure is raised when everything was tried. A second call changes nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        self._runtime.health.started = False
        for check in self._checks:
            self._runtime.health.remove(check)
        errors: list[BaseException] = []
        # From the last line to the first, each whatever became of the others.
        async with AsyncExitStack() as ends:
            ends.callback(clear_context)
            ends.callback(self._runtime.exposition.name_process, "", "")
            ends.callback(self._service.unbind)
            for proxy in self._proxies:
                ends.push_async_callback(ServiceProxy.close, proxy)
            if self._http_socket is not None:
                ends.callback(self._http_socket.close)
            if self._lease is not None:
                ends.push_async_callback(self._lease.close)
            if self._instance is not None:
                for name in self._service.hooks(HookKind.SHUTDOWN):
                    ends.push_async_callback(self._run_shutdown_hook, self._instance, name, errors)
            ends.push_async_callback(self._drain, drain_s, errors)
        if errors:
            raise errors[0]

    def _build(self) -> object:
        self._report(f"building {self._service.name}")
        config = ServiceConfig.get_instance()
        arguments = configured_arguments(self._service.name, self._service.inner, config)
        with contained(f"the constructor of {self._service.name}"):
            return self._service(**arguments)

    def _answer_for(self, hook: HookKind, kind: HealthKind, instance: object) -> None:
        """Let the system server ask the hooks of a kind."""
        for name in self._service.hooks(hook):
            ask: Ask = getattr(instance, name)
            self._checks.append(self._runtime.health.add(kind, f"{self._service.name}.{name}", ask))

    async def _drain(self, drain_s: float, errors: list[BaseException]) -> None:
        ends = [served.close(drain_s) for served in self._served]
        if self._http is not None:
            ends.append(self._http.stop(drain_s))
        for outcome in await asyncio.gather(*ends, return_exceptions=True):
            if outcome is not None:
                logger.error("%s did not drain: %s", self._service.name, blame(outcome))
                errors.append(outcome)

    async def _run_shutdown_hook(self, instance: object, name: str, errors: list[BaseException]) -> None:
        limit = asyncio.timeout(self._shutdown_hook_s)
        try:
            async with limit:
                await run_hook(instance, name)
        except Exception as error:
            failure = DynamoError(f"it took more than {self._shutdown_hook_s:g} s") if limit.expired() else error
            logger.error("the shutdown hook %s.%s failed: %s", self._service.name, name, blame(failure))
            errors.append(failure)

    async def _fill_context(self) -> None:
        clear_context()
        elsewhere = external_services(os.environ)
        dynamo_context["service_name"] = self._service.name
        dynamo_context["runner_map"] = {name: f"dynamo://{'/'.join(address)}" for name, address in elsewhere.items()}
        dynamo_context["worker_id"] = self._worker_id
        dynamo_context["runtime"] = self._runtime
        dynamo_context["endpoints"] = self._endpoints
        if self._service.options.dynamo.enabled:
            namespace, name = self._service.dynamo_address()
            component = self._runtime.namespace(namespace).component(name)
            dynamo_context["namespace"] = namespace
            dynamo_context["component"] = component
            self._runtime.exposition.name_process(namespace, name)
            await self._claim(component)
            self._endpoints += [
                Endpoint(self._runtime, component.endpoint(spec.name).id, self._lease)
                for spec in self._service.plane_endpoints
            ]

    async def _claim(self, component: Component) -> None:
        """Take the lease that the service wants of its own; when it is revoked, the worker ends."""
        config = self._service.options.dynamo.custom_lease
        if config is not None:
            self._lease = dynamo_context["lease"] = await component.create_service_with_custom_lease(config.ttl)
            self._lease.revoked.add_callback(self._runtime.shutdown)

    async def _serve(self, instance: object) -> None:
        for endpoint, spec in zip(self._endpoints, self._service.plane_endpoints, strict=False):
            self._served.append(await endpoint.serve(bind_handler(instance, spec), drain_s=DRAIN_S))
        if self._http_socket is not None:
            from dynamo.runtime._http_server import HttpServer
            from dynamo.sdk._http import build_app

            self._http = HttpServer(build_app(self._service, instance), self._http_socket, self._runtime.shutdown)
            await self._http.start()
