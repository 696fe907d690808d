"""`dynamo run out=dyn`: workers answer that are elsewhere, in the system that the environment names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from dynamo._core.address import EndpointId
from dynamo._core.discovery import discovery_setting, discovery_url_from_env, open_discovery
from dynamo.entrypoint._answering import Ended, served_elsewhere
from dynamo.entrypoint._one_endpoint import OneEndpoint
from dynamo.runtime import DistributedRuntime


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
        opened = open_discovery(discovery_url_from_env(self._environ), discovery_setting(self._environ))
        discovery = OneEndpoint(opened, self._endpoint)
        try:
            async with DistributedRuntime(discovery=discovery) as runtime:
                yield runtime
        finally:
            await discovery.close()

    def serving(self, runtime: DistributedRuntime) -> AbstractAsyncContextManager[Ended]:
        """They serve already; one that ends is the business of the others."""
        return served_elsewhere()
