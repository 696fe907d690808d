"""The life of one worker of a service, inside a running loop.

In order: the edges are bound, the context is filled, the instance is built, the startup hooks run, the
endpoints are served, and the services that it calls are found. Nobody can find the worker before its
hooks are done. The end is the reverse: nothing new is taken, what runs drains, the shutdown hooks run.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from dynamo.runtime import DistributedRuntime, ServedEndpoint
from dynamo.sdk._blame import blame
from dynamo.sdk._constructor import check_arguments, constructor_arguments
from dynamo.sdk._context import clear_context, dynamo_context
from dynamo.sdk._handler import bind_handler
from dynamo.sdk._hooks import HookKind, run_hook
from dynamo.sdk._proxy import ServiceProxy
from dynamo.sdk._service import Service
from dynamo.sdk.lib.config import ServiceConfig

if TYPE_CHECKING:
    from dynamo.sdk._http import HttpServer

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
    ) -> None:
        self._service = service
        self._runtime = runtime
        self._worker_id = worker_id
        self._http_socket = http_socket
        self._report = report
        # What was started, so that it can be ended.
        self._proxies: list[ServiceProxy] = []
        self._instance: object | None = None
        self._served: list[ServedEndpoint] = []
        self._http: HttpServer | None = None
        self._stopped = False

    async def start(self) -> None:
        """Return when the worker can be called and everything that it calls is there."""
        self._proxies = self._service.bind(self._runtime)
        self._fill_context()
        self._report(f"building {self._service.name}")
        section = ServiceConfig.get_instance().get(self._service.name, {})
        arguments = constructor_arguments(self._service.inner, section)
        check_arguments(self._service.name, self._service.inner, arguments)
        self._instance = self._service(**arguments)
        for name in self._service.hooks(HookKind.START):
            self._report(f"running the startup hook {name}")
            await run_hook(self._instance, name)
        await self._serve(self._instance)
        for target, proxy in zip(self._service.edges().values(), self._proxies, strict=True):
            self._report(f"waiting for {target.name}")
            await proxy.connect()
        for name in self._service.hooks(HookKind.READINESS):
            self._report(f"waiting until {name} says that it is ready")
            while not await run_hook(self._instance, name):  # noqa: ASYNC110 - the user's own check has no event
                await asyncio.sleep(READINESS_INTERVAL_S)

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no more requests, let those that run end, then run the shutdown hooks: each once, whatever fails.

        The first failure is raised when everything was tried. A second call changes nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        errors = await self._drain(drain_s)
        if self._instance is not None:
            errors += await self._run_shutdown_hooks(self._instance)
        if self._http_socket is not None:
            self._http_socket.close()
        for proxy in self._proxies:
            await proxy.close()
        self._service.unbind()
        clear_context()
        if errors:
            raise errors[0]

    async def _drain(self, drain_s: float) -> list[BaseException]:
        ends = [served.close(drain_s) for served in self._served]
        if self._http is not None:
            ends.append(self._http.stop(drain_s))
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        errors = [outcome for outcome in outcomes if outcome is not None]
        for error in errors:
            logger.error("%s did not drain: %s", self._service.name, blame(error))
        return errors

    async def _run_shutdown_hooks(self, instance: object) -> list[BaseException]:
        errors: list[BaseException] = []
        for name in reversed(self._service.hooks(HookKind.SHUTDOWN)):
            try:
                async with asyncio.timeout(SHUTDOWN_HOOK_S):
                    await run_hook(instance, name)
            except Exception as error:
                logger.error("the shutdown hook %s.%s failed: %s", self._service.name, name, blame(error))
                errors.append(error)
        return errors

    def _fill_context(self) -> None:
        clear_context()
        dynamo_context["service_name"] = self._service.name
        dynamo_context["worker_id"] = self._worker_id
        dynamo_context["runtime"] = self._runtime
        dynamo_context["endpoints"] = []
        if self._service.options.dynamo.enabled:
            namespace, name = self._service.dynamo_address()
            component = self._runtime.namespace(namespace).component(name)
            dynamo_context["namespace"] = namespace
            dynamo_context["component"] = component
            dynamo_context["endpoints"] = [component.endpoint(spec.name) for spec in self._service.plane_endpoints]

    async def _serve(self, instance: object) -> None:
        for endpoint, spec in zip(dynamo_context["endpoints"], self._service.plane_endpoints, strict=False):
            self._served.append(await endpoint.serve(bind_handler(instance, spec), drain_s=DRAIN_S))
        if self._http_socket is not None:
            from dynamo.sdk._http import HttpServer, build_app

            self._http = HttpServer(build_app(self._service, instance), self._http_socket, self._runtime.shutdown)
            await self._http.start()
