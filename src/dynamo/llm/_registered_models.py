"""The registered models that can be asked now, as registrations and workers come and go.

One name may be registered for chat and for completions, at two endpoints. It can be asked as long as one of
them has an instance; which instances there are is what the client of each endpoint says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from dynamo._core.address import registration_key
from dynamo._core.discovery.base import Put
from dynamo._core.errors import DynamoError, InvalidArgument, NoInstances, WorkerUnavailable
from dynamo.llm._following import FollowedModel, follow
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.llm._migration import Migration
from dynamo.llm._open_router import open_router
from dynamo.llm._openai import ChatRequest, OpenAIRequest
from dynamo.llm._registration import Kind, Registration
from dynamo.llm._routing import Router
from dynamo.llm._text_pipeline import TextPipeline
from dynamo.llm._workers import Workers
from dynamo.runtime import DistributedRuntime

logger = logging.getLogger(__name__)

REGISTRATIONS_MAX = 1024


class _Route(FollowedModel):
    """One registration, and once its endpoint is followed, who answers there."""

    def __init__(self, registration: Registration) -> None:
        super().__init__()
        self.registration = registration
        self.pipeline: TextPipeline | None = None

    def live(self) -> list[int]:
        return [] if self.workers is None else self.workers.instance_ids()


class RegisteredModels:
    """Follows the registrations of one public namespace; use it with `async with`."""

    def __init__(
        self,
        runtime: DistributedRuntime,
        *,
        public_namespace: str,
        on_ready: Callable[[], None],
        is_served: Callable[[str], bool],
        migration: Callable[[str, Workers], Migration],
        router: RouterConfig,
    ) -> None:
        self._runtime = runtime
        self._prefix = registration_key(public_namespace)
        self._on_ready = on_ready
        # Whether the workers of a model say themselves that they serve it.
        self._is_served = is_served
        # How requests for a model move between its workers.
        self._migration = migration
        self._router_config = router
        # The mutable state, changed by _put() and _delete() only: what is registered, by its key.
        self._routes: dict[str, _Route] = {}
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RegisteredModels:
        self._follower = asyncio.create_task(follow(self._runtime, self._prefix, self._put, self._delete))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for route in self._routes.values():
            await route.close()

    # What a model manager asks.

    def __contains__(self, name: str) -> bool:
        return any(True for _ in self._of(name))

    def pipeline(self, name: str, request: OpenAIRequest | None = None) -> TextPipeline:
        """Return what answers for a registered model.

        Raises `InvalidArgument` for a request of a kind that it is not registered for, `NoInstances` if nobody
        serves its endpoint, and `WorkerUnavailable` if that cannot be known here.
        """
        kinds = {route.registration.kind: route for route in self._of(name)}
        if request is not None:
            kind = Kind.Chat if isinstance(request, ChatRequest) else Kind.Completion
            if kind not in kinds:
                answers = ",".join(str(kind.model_type) for kind in kinds)
                raise InvalidArgument(
                    f"the model {name!r} answers {answers} requests only", param="model", code="wrong_model_type"
                )
            kinds = {kind: kinds[kind]}
        route = next((route for route in kinds.values() if route.live()), next(iter(kinds.values())))
        if route.fault is not None:
            raise WorkerUnavailable(f"the model {name!r} cannot be served by this frontend; its log says why")
        if route.pipeline is None or not route.live():
            raise NoInstances(
                f"no live worker serves {route.registration.endpoint}, where the model {name!r} is registered",
                model=name,
            )
        return route.pipeline

    def names(self) -> set[str]:
        """The models that can be asked now."""
        return {route.registration.model for route in self._routes.values() if route.live()}

    def created_s(self, name: str) -> int:
        """When this model was first seen, in seconds of the Unix clock."""
        return min(route.created_s for route in self._of(name))

    def instances(self, name: str) -> list[str]:
        """The live instances behind a model, at all of its endpoints."""
        found = {f"{route.registration.endpoint}/{id:x}" for route in self._of(name) for id in route.live()}
        return sorted(found)

    def passed_over(self) -> set[str]:
        """Those of the live instances, of all models, that were at fault lately and have not answered since."""
        return {
            f"{route.registration.endpoint}/{id:x}"
            for route in self._routes.values()
            for id in route.live()
            if route.workers is not None and route.workers.client.is_passed_over(id)
        }

    def routers(self) -> dict[str, Router]:
        """The router of each model that has one."""
        return {
            route.registration.model: route.workers.router
            for route in self._routes.values()
            if route.workers is not None and route.workers.router is not None
        }

    def _of(self, name: str) -> Iterator[_Route]:
        return (route for route in self._routes.values() if route.registration.model == name)

    # Following the registrations.

    async def _put(self, change: Put) -> None:
        try:
            registration = Registration.from_json(change.value)
        except DynamoError as error:
            logger.warning("ignoring the registration at %s: %s", change.key, error)
            return
        await self._delete(change.key)
        if len(self._routes) >= REGISTRATIONS_MAX:
            logger.error("ignoring the registration at %s: there are %d already", change.key, REGISTRATIONS_MAX)
            return
        route = self._routes[change.key] = _Route(registration)
        route.opening = asyncio.create_task(self._open(route))
        if self._is_served(registration.model):
            warn_shadowed(registration.model)

    async def _delete(self, key: str) -> None:
        route = self._routes.pop(key, None)
        if route is not None:
            await route.close()

    async def _open(self, route: _Route) -> None:
        """Follow the endpoint of a registration, beside everything else."""
        name, at = route.registration.model, route.registration.endpoint
        endpoint = self._runtime.namespace(at.namespace).component(at.component).endpoint(at.endpoint)
        try:
            route.workers = Workers(name, await endpoint.client(), None, self._runtime.rng)
            route.workers.router = await open_router(self._router_config, endpoint, route.workers, None)
            route.pipeline = TextPipeline(self._migration(name, route.workers), asks_for_usage=False)
            await route.workers.client.wait_for_instances()
        except Exception as error:
            # Whatever it is concerns this registration only.
            route.fault = error
            logger.error("the registered model %r cannot be served: %s", name, error)
            return
        logger.info("the registered model %r is ready, at %s", name, at)
        self._on_ready()


def warn_shadowed(name: str) -> None:
    """Say that a registration has no effect for now."""
    logger.warning("the registration of the model %r is not used: workers that serve it have registered it too", name)
