"""Discovery: who is alive.

A key lives as long as its lease; a key without a lease lives until it is deleted. The meanings below
are kept by every implementation and checked by the same suites, `tests/conformance/test_discovery*.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from dynamo._core.discovery.status import DiscoveryStatus

LEASE_TTL_S = 10.0


@dataclass(frozen=True, slots=True)
class Put:
    """A key exists with this value."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """A key no longer exists: deleted, or its lease ended."""

    key: str


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that existed when the watch began has been said; changes follow."""


Change = Put | Delete | Synced


class Lease(Protocol):
    """A claim to be alive. Its keys vanish when it is closed, or when its process dies."""

    @property
    def id(self) -> int:
        """Unique among the leases of this discovery, positive, below 2**63."""

    async def close(self) -> None:
        """End the lease and delete its keys. A second call changes nothing."""


class Discovery(Protocol):
    """A small key-value store with leases and watches.

    Losing its server is not losing whoever is alive: watches keep what they have said, leases and their keys come
    again by themselves when the server does, and `status` says meanwhile that all this may be old.
    """

    @property
    def status(self) -> DiscoveryStatus:
        """Whether what it tells is current. The same object for ever."""

    async def grant(self, ttl_s: float = LEASE_TTL_S) -> Lease:
        """Return a lease that is kept alive until it is closed or its process ends."""

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        """Set a key; it moves to the lease given last.

        Raises `NotFound` if the lease is closed or lost, and `InvalidArgument` for a key or value over the limits.
        """

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> bool:
        """Set a key that does not exist yet. False, and nothing changed, if it does."""

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        """Return the keys that begin with `prefix`, in order."""

    async def delete(self, key: str) -> None:
        """Delete a key; one that is not there is no error.

        A key of one's own lease is deleted later if the server cannot be reached now: whoever leaves need not wait.
        """

    def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        """Yield what exists as `Put`, then `Synced`, then each change, for ever.

        Nothing is missed between the two. It reconnects and relists by itself: a caller never has
        a gap to fill. Several changes of one key may arrive as the last of them, and setting a key
        to the value that it has is no change. A reader that is slow costs memory only for the keys
        that there are. Closing the generator frees the watch; closing the discovery ends it.
        """

    async def close(self) -> None:
        """End the watches and the leases that were granted here."""
