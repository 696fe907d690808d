"""What `depends` becomes in a running service: the endpoints of another service, as methods."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dynamo._core.context import Context
from dynamo.runtime import Client, DistributedRuntime
from dynamo.sdk._call import Call, Callee
from dynamo.sdk._context import request_context
from dynamo.sdk._handler import CONTEXT_NAMES, answer_reader, positional_of, takes_context
from dynamo.sdk._status import START_TIMEOUT_S

if TYPE_CHECKING:
    from dynamo.sdk._endpoints import EndpointSpec
    from dynamo.sdk._service import Service


class ServiceProxy:
    """Calls the endpoints of a service on whichever of its workers are alive.

    `proxy.generate(request)` is awaited for one answer, or iterated for a stream of them. A request may
    be a model, a dict, a str, or anything else that JSON can say. An endpoint goes by its name, by that of
    its method, and by its name with `_` for what no attribute may have.
    """

    def __init__(self, service: Service[object], runtime: DistributedRuntime) -> None:
        self._service = service
        self._runtime = runtime
        self._endpoints = _by_alias(service.plane_endpoints)
        # The mutable state: the clients that are open or being opened, and what calls have of them.
        self._clients: dict[str, asyncio.Task[Client]] = {}
        self._callees: dict[str, Callee] = {}
        for name in ("connect", "close"):  # our own, which those of the service go before
            if name in self._endpoints:
                self.__dict__[name] = self._method(self._endpoints[name])

    def __getattr__(self, attribute: str) -> Callable[..., Call]:
        spec = self.__dict__.get("_endpoints", {}).get(attribute)
        if spec is None:
            raise AttributeError(_no_endpoint(attribute, self.__dict__.get("_service")))
        method = self.__dict__[attribute] = self._method(spec)  # the next look-up finds it at once
        return method

    def _method(self, spec: EndpointSpec) -> Callable[..., Call]:
        callee = self._callee(spec)
        names = _parameters(spec)

        def call(*arguments: object, **keywords: object) -> Call:
            if len(arguments) == 1 and not keywords and names:
                return Call(callee, arguments[0], request_context.get())
            request, context = _bound(callee.name, names, arguments, keywords)
            return Call(callee, request, context or request_context.get())

        call.__name__ = spec.attribute
        call.__qualname__ = callee.name
        call.__doc__ = spec.function.__doc__
        return call

    def _callee(self, spec: EndpointSpec) -> Callee:
        callee = self._callees.get(spec.name)
        if callee is None:
            callee = self._callees[spec.name] = Callee(
                f"{self._service.name}.{spec.attribute}",
                lambda: ServiceProxy.get_endpoint(self, spec.name),
                answer_reader(spec),
                self._service.options.traffic.timeout,
            )
        return callee

    async def get_endpoint(self, name: str) -> Client:
        """Return the client of an endpoint: one for the life of the service, made on first use.

        The first use waits until a worker serves the endpoint, so that services may start in any order.
        """
        spec = self._endpoints.get(name)
        if spec is None:
            raise AttributeError(_no_endpoint(name, self._service))
        task = self._clients.get(spec.name)
        if task is None or _has_failed(task):
            task = self._clients[spec.name] = asyncio.ensure_future(self._open(spec))
        client = await asyncio.shield(task)
        if self._clients.get(spec.name) is task:  # else it was closed meanwhile
            self._callee(spec).client = client
        return client

    async def connect(self) -> None:
        """Wait until every endpoint of the service is served by somebody."""
        for name in sorted({spec.name for spec in self._endpoints.values()}):
            await ServiceProxy.get_endpoint(self, name)

    async def close(self) -> None:
        """Give the clients back."""
        opening = list(self._clients.values())
        self._clients.clear()
        for callee in self._callees.values():
            callee.client = None
        for task in opening:
            task.cancel()
        for outcome in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(outcome, Client):
                await outcome.close()

    async def _open(self, spec: EndpointSpec) -> Client:
        namespace, component = self._service.dynamo_address()
        client = await self._runtime.namespace(namespace).component(component).endpoint(spec.name).client()
        try:
            await client.wait_for_instances(timeout_s=START_TIMEOUT_S)
        except BaseException:
            await client.close()
            raise
        return client


def _by_alias(endpoints: Sequence[EndpointSpec]) -> dict[str, EndpointSpec]:
    """The endpoints by every name that means one of them: names go before methods, and these before other aliases."""
    counts = Counter(alias for spec in endpoints for alias in spec.aliases)
    by_alias = {alias: spec for spec in endpoints for alias in spec.aliases if counts[alias] == 1}
    by_alias |= {spec.attribute: spec for spec in endpoints}
    return by_alias | {spec.name: spec for spec in endpoints}


def _parameters(spec: EndpointSpec) -> tuple[str, ...]:
    """The names of what the endpoint takes: its request, if any, and the context, if it takes that, too."""
    positional = positional_of(list(inspect.signature(spec.function).parameters.values())[1:])
    return tuple(one.name for one in positional[: 2 if takes_context(positional) else 1])


def _bound(
    callee: str, names: tuple[str, ...], arguments: tuple[object, ...], keywords: dict[str, object]
) -> tuple[object, Context | None]:
    """Return the request and the context that a call has been given. TypeError if it was given anything else."""
    request_names = dict.fromkeys((*names[:1], "request"))
    context_names = dict.fromkeys((*names[1:], *CONTEXT_NAMES))
    requests = [*arguments[:1], *(keywords.pop(name) for name in request_names if name in keywords)]
    contexts = [*arguments[1:2], *(keywords.pop(name) for name in context_names if name in keywords)]
    if len(arguments) > 2 or len(requests) > 1 or len(contexts) > 1 or not _is_context(contexts):
        raise TypeError(f"{callee}() takes one request, and a context if any; put several values into one request")
    if keywords:
        raise TypeError(f"{callee}() got an unexpected keyword argument {next(iter(keywords))!r}")
    if requests and not names:
        raise TypeError(f"{callee}() takes no request")
    if names and not requests:
        raise TypeError(f"{callee}() is missing its request; call it with None if that is meant")
    return requests[0] if requests else None, contexts[0] if contexts else None  # type: ignore[return-value]


def _is_context(given: list[object]) -> bool:
    return all(value is None or isinstance(value, Context) for value in given)


def _has_failed(task: asyncio.Task[Client]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _no_endpoint(name: str, service: Service[object] | None) -> str:
    if service is None:  # of a proxy that is being made, or copied
        return f"the proxy has no attribute {name!r}"
    available = [spec.name for spec in service.plane_endpoints]
    return f"No Dynamo endpoint {name!r} found on service {service.name!r}. Available endpoints: {available}"
