"""The registrations of one public namespace, as `llmctl` reads and changes them in discovery."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from dynamo._core.address import EndpointId, registration_key
from dynamo._core.discovery import discovery_setting, discovery_url_from_env, open_discovery
from dynamo._core.discovery.base import Discovery
from dynamo._core.errors import ConfigError, DynamoError, NotFound
from dynamo.llm._registration import Kind, Registration

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_S = 30.0


class Store:
    """What is registered in a public namespace."""

    def __init__(self, public_namespace: str, discovery: Discovery) -> None:
        self._public_namespace = public_namespace
        self._discovery = discovery

    async def add(self, registration: Registration) -> Registration | None:
        """Add a registration. If there is one of its kind and model, return that, and change nothing."""
        key = registration.key(self._public_namespace)
        if await self._discovery.create(key, registration.to_json()):
            return None
        value = (await self._discovery.get_prefix(key)).get(key)
        if value is None:
            raise NotFound(f"the model {registration.model!r} was removed a moment ago: try again")
        return Registration.from_json(value)

    async def all(self, kind: Kind | None = None) -> list[Registration]:
        """Return what is registered, of one kind or of all, in order."""
        prefix = registration_key(self._public_namespace, *([] if kind is None else [kind.word]))
        found = []
        for key, value in (await self._discovery.get_prefix(prefix)).items():
            try:
                found.append(Registration.from_json(value))
            except DynamoError as error:
                logger.warning("ignoring the registration at %s: %s", key, error)
        return found

    async def remove(self, kind: Kind, model: str) -> None:
        """Take a registration back. One that is not there is no error."""
        await self._discovery.delete(registration_key(self._public_namespace, kind.word, model))

    async def is_served(self, endpoint: EndpointId) -> bool:
        """Whether an endpoint has an instance now."""
        return bool(await self._discovery.get_prefix(endpoint.instances_prefix))


def with_store(public_namespace: str, environ: Mapping[str, str], work: Callable[[Store], Awaitable[T]]) -> T:
    """Do `work` with the registrations in the discovery that the environment names.

    Raises `ConfigError` if that cannot be one that frontends share.
    """
    url = discovery_url_from_env(environ)
    if url.startswith("memory:"):
        raise ConfigError(f"DYN_DISCOVERY is {url!r}, which no frontend could look into: write file:///some/dir")

    async def in_time() -> T:
        discovery = open_discovery(url, discovery_setting(environ))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await work(Store(public_namespace, discovery))
        except TimeoutError:
            raise DynamoError(f"discovery at {url} did not answer within {TIMEOUT_S:g} s") from None
        finally:
            await discovery.close()

    return asyncio.run(in_time())
