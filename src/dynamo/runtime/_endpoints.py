"""Endpoints by their paths: the part of a runtime that most programs get by with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, cast

from dynamo._core.context import Context
from dynamo.runtime._arguments import check_seconds, check_type, endpoint_id
from dynamo.runtime._client import Client
from dynamo.runtime._component import Endpoint, Namespace
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._served_endpoint import DRAIN_S, ServedEndpoint
from dynamo.runtime._serving import EndpointHandler
from dynamo.runtime._timeouts import StreamTimeouts

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

T = TypeVar("T")


class Endpoints:
    """Serves and calls, in one step each, and gives names; a `DistributedRuntime` is one."""

    @property
    def _runtime(self) -> DistributedRuntime:
        return cast("DistributedRuntime", self)

    async def serve(
        self,
        path: str,
        handler: EndpointHandler,
        *,
        drain_s: float = DRAIN_S,
        request_type: type[T] | None = None,
        lease: CustomLease | None = None,
        health_check_payload: object = None,
        max_concurrent_requests: int | None = None,
        max_queued_requests: int | None = None,
        queue_timeout_s: float | None = None,
    ) -> ServedEndpoint:
        """Serve the endpoint `ns.comp.ep` with `handler`; return when it can be called.

        It is served until it is closed, or the runtime ends. `handler` takes `(request)` or `(request, context)`;
        what it may be, the other arguments and the errors are those of `Endpoint.serve`. To serve and stay until
        the runtime shuts down, `wait_for_shutdown` after it.
        """
        return await self.endpoint(path).serve(
            handler,
            drain_s=drain_s,
            request_type=request_type,
            lease=lease,
            health_check_payload=health_check_payload,
            max_concurrent_requests=max_concurrent_requests,
            max_queued_requests=max_queued_requests,
            queue_timeout_s=queue_timeout_s,
        )

    async def client(self, path: str, *, timeouts: StreamTimeouts | None = None) -> Client:
        """Return a client of the endpoint `ns.comp.ep`, which knows the instances that are alive.

        `timeouts` and the errors are those of `Endpoint.client`. The client ends with the runtime.
        """
        return await self.endpoint(path).client(timeouts=timeouts)

    def context(
        self, request_id: str | None = None, metadata: dict[str, str] | None = None, *, timeout_s: float | None = None
    ) -> Context:
        """Return a context to call with: `client.generate(request, context=runtime.context(timeout_s=2))`.

        Without `request_id` the request gets one of its own. `metadata` travels with the request. After `timeout_s`
        seconds the request is over, wherever it is, and raises `DeadlineExceeded`; None is for ever.
        """
        check_type("request_id", request_id, (str, type(None)), "a str, or None")
        check_type("metadata", metadata, (dict, type(None)), "a dict of str to str, or None")
        check_seconds("timeout_s", timeout_s, or_none="no limit")
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        return Context(request_id, metadata, deadline=deadline)

    def namespace(self, name: str) -> Namespace:
        """The namespace `name`. Raises `InvalidArgument` for a name that is none."""
        return Namespace(self._runtime, name)

    def endpoint(self, path: str) -> Endpoint:
        """The endpoint `ns.comp.ep`, with or without `dyn://` before it.

        Raises `InvalidArgument` for a path that has not three names, or names that are none.
        """
        return Endpoint(self._runtime, endpoint_id(path))
