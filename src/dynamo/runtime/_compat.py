"""Older ways to make a runtime, and to keep values in discovery. Each says what it is today.

A runtime of 0.x and 1.x was made with the event loop, and had joined when its constructor returned. Ours joins
while others work, so one that is made in an older way joins at the first call that waits for something. What was a
client of etcd is one of the discovery, whichever that is.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from typing import TYPE_CHECKING

from typing_extensions import deprecated

from dynamo._core.discovery import discovery_url_from_env
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.request_plane import RequestPlane
from dynamo.runtime._arguments import check_type
from dynamo.runtime._lease import CustomLease

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Discovery, Lease
    from dynamo.runtime._runtime import DistributedRuntime

_BACKENDS = ("etcd", "file", "mem")
_PLANES = {"tcp": "tcp:"}


def planes_of_before(
    event_loop: object,
    backend: str | bool | None,
    request_plane: str | RequestPlane | None,
    discovery: str | Discovery | None,
) -> tuple[str | Discovery | None, str | RequestPlane | None]:
    """Read the arguments of an older constructor, and warn; return discovery and request plane as they are given today.

    Raises `ConfigError` for a backend or a plane that there is not.
    """
    check_type(
        "event_loop", event_loop, (asyncio.AbstractEventLoop, type(None)), "nothing: name discovery= and request_plane="
    )
    warnings.warn(
        "leave the event loop and enable_nats out: `async with DistributedRuntime() as runtime`, with discovery= and "
        "request_plane= as URLs where the environment does not say them; this form goes with version 1.0",
        DeprecationWarning,
        stacklevel=3,
    )
    if isinstance(backend, str):
        if backend not in _BACKENDS:
            raise ConfigError(f"discovery_backend={backend!r}: give one of {', '.join(_BACKENDS)}, or discovery= a URL")
        others = {name: value for name, value in os.environ.items() if name != "DYN_DISCOVERY"}
        discovery = discovery_url_from_env(others | {"DYN_DISCOVERY_BACKEND": backend})
    if isinstance(request_plane, str) and ":" not in request_plane:
        if request_plane not in _PLANES:
            raise ConfigError(f"request_plane={request_plane!r}: give {', '.join(_PLANES)}, or a URL such as tcp:")
        request_plane = _PLANES[request_plane]
    return discovery, request_plane


class JoinsByItself:
    """Joins a runtime when it is first called, and leaves when that is shut down or its loop ends."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime
        self._joined: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Return when it has joined. Raises what prevents it, each time."""
        if self._joined is None:
            loop = asyncio.get_running_loop()
            self._joined = loop.create_future()
            self._keeper = loop.create_task(self._keep(self._joined), name="keep a runtime joined")
        await asyncio.shield(self._joined)

    async def _keep(self, joined: asyncio.Future[None]) -> None:
        # asyncio.run() cancels what is left at the end, and waits for it: then it leaves in order, too.
        try:
            await self._runtime._join()
        except Exception as error:
            joined.set_exception(error)
            return
        except BaseException:
            joined.cancel()
            raise
        joined.set_result(None)
        try:
            await self._runtime.wait_for_shutdown()
        finally:
            await self._runtime.close()


class EtcdClient:
    """Keeps values in discovery, under the names of the etcd client of 0.x. `runtime.discovery` does the same.

    Unless another lease is named, a value lives as long as the process that put it there.
    """

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime

    def primary_lease_id(self) -> int:
        """The id of the process's own lease."""
        return self._runtime.lease.id

    async def kv_create(self, key: str, value: bytes, lease_id: int | None = None) -> None:
        """Set a key that does not exist yet. Raises `InvalidArgument` if it does."""
        if not await self._create(key, value, lease_id):
            raise InvalidArgument(f"failed to create key {key!r}: it exists", key=key)

    async def kv_create_or_validate(self, key: str, value: bytes, lease_id: int | None = None) -> None:
        """Set a key that does not exist yet. Raises `InvalidArgument` if it exists with another value."""
        if not await self._create(key, value, lease_id):
            there = (await self._runtime.discovery.get_prefix(key)).get(key)
            if there != value:
                raise InvalidArgument(f"failed to create or validate key {key!r}: it has another value", key=key)

    async def kv_put(self, key: str, value: bytes, lease_id: int | None = None) -> None:
        """Set a key, whether it exists or not."""
        _check(key, value)
        await self._runtime.joined()
        await self._runtime.discovery.put(key, value, self._lease(lease_id))

    async def kv_get_prefix(self, prefix: str) -> list[dict[str, str | bytes]]:
        """Return what begins with `prefix`: each a dict with `key` and `value`, and none of etcd's revisions."""
        check_type("prefix", prefix, str, "a str")
        await self._runtime.joined()
        found = await self._runtime.discovery.get_prefix(prefix)
        return [{"key": key, "value": value} for key, value in found.items()]

    async def revoke_lease(self, lease_id: int) -> None:
        """End a lease of this process, and with it all that lives by it; its own ends the runtime, too.

        Raises `NotFound` for a lease of another process: that one must revoke it.
        """
        await self._runtime.joined()
        claim = self._runtime.claim(lease_id)
        if not isinstance(claim, CustomLease):
            self._runtime.shutdown()
        await claim.close()

    async def _create(self, key: str, value: bytes, lease_id: int | None) -> bool:
        _check(key, value)
        await self._runtime.joined()
        return await self._runtime.discovery.create(key, value, self._lease(lease_id))

    async def _delete(self, key: str) -> None:
        await self._runtime.discovery.delete(key)

    def _lease(self, lease_id: int | None) -> Lease:
        claim = self._runtime.lease if lease_id is None else self._runtime.claim(lease_id)
        return claim.lease if isinstance(claim, CustomLease) else claim


class EtcdKvCache:
    """The values below a prefix of discovery. Each question asks discovery: what it answers is current."""

    def __init__(self, etcd_client: EtcdClient, prefix: str) -> None:
        self._client = etcd_client
        self._prefix = prefix

    @classmethod
    @deprecated("use `runtime.discovery`: create, get_prefix and watch; EtcdKvCache goes with version 1.0")
    async def create(cls, etcd_client: EtcdClient, prefix: str, initial_values: dict[str, bytes]) -> EtcdKvCache:
        """Return the values below `prefix`; `initial_values`, without the prefix, are set where none is yet."""
        check_type("etcd_client", etcd_client, EtcdClient, "what `runtime.etcd_client()` returned")
        check_type("prefix", prefix, str, "a str")
        check_type("initial_values", initial_values, dict, "a dict of str to bytes")
        for key, value in initial_values.items():
            check_type("initial_values", key, str, "a dict of str to bytes")
            await etcd_client._create(prefix + key, value, None)
        return cls(etcd_client, prefix)

    async def get(self, key: str, default: bytes | None = None) -> bytes | None:
        """Return a value by its key without the prefix; `default` if it is not there."""
        check_type("key", key, str, "a str")
        return (await self._below(key)).get(key, default)

    async def get_all(self) -> dict[str, bytes]:
        """Return all values, by their keys without the prefix."""
        return await self._below("")

    async def put(self, key: str, value: bytes, lease_id: int | None = None) -> None:
        """Set a value by its key without the prefix."""
        check_type("key", key, str, "a str")
        await self._client.kv_put(self._prefix + key, value, lease_id)

    async def delete(self, key: str) -> None:
        """Delete a value by its key without the prefix; one that is not there is no error."""
        check_type("key", key, str, "a str")
        await self._client._delete(self._prefix + key)

    async def _below(self, start: str) -> dict[str, bytes]:
        found = await self._client.kv_get_prefix(self._prefix + start)
        return {str(item["key"])[len(self._prefix) :]: bytes(item["value"]) for item in found}  # type: ignore[arg-type]


def _check(key: str, value: bytes) -> None:
    check_type("key", key, str, "a str")
    check_type("value", value, bytes, "bytes")
