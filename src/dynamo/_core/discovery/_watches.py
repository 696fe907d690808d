"""What the implementations share: the watches of one discovery, and the limits of keys and values.

A watch that is read slowly keeps, for each key, only the newest thing to say, and says nothing of a
key that came and went unseen. So what waits for a reader is never more than the keys that exist and
the keys that it knows.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from dynamo._core.discovery.base import Change, Delete, Put, Synced
from dynamo._core.errors import InvalidArgument
from dynamo._core.limits import KEY_CHARS_MAX, VALUE_BYTES_MAX

# Stands in the queue between what existed and what changed. No key is empty.
_SYNCED = ""


def check_key(key: str) -> None:
    """Raise `InvalidArgument` unless `key` can be stored."""
    if not 0 < len(key) <= KEY_CHARS_MAX:
        raise InvalidArgument(
            f"a key has 1 to {KEY_CHARS_MAX} characters, not {len(key)}: {key[:80]!r}", chars=len(key)
        )
    if not key.isprintable():
        raise InvalidArgument(f"the key {key[:80]!r} has a character that cannot be printed; encode it", key=key[:80])


def check_value(key: str, value: bytes) -> None:
    """Raise `InvalidArgument` if `value` is larger than discovery is for."""
    if len(value) > VALUE_BYTES_MAX:
        raise InvalidArgument(
            f"the value of {key[:80]!r} has {len(value)} bytes; at most {VALUE_BYTES_MAX} fit: "
            "store it elsewhere and put its address here",
            key=key[:80],
            size_bytes=len(value),
        )


def check_ttl(ttl_s: float) -> None:
    """Raise `InvalidArgument` unless a lease can live for `ttl_s`."""
    if not 0 < ttl_s < float("inf"):
        raise InvalidArgument(f"a lease lives for some seconds, more than 0: got ttl_s={ttl_s}")


class Watch:
    """One reader's place: what it has yet to be told."""

    def __init__(self, prefix: str, existing: Mapping[str, bytes]) -> None:
        self.prefix = prefix
        self._pending: OrderedDict[str, Change] = OrderedDict(
            (key, Put(key, existing[key])) for key in sorted(existing) if key.startswith(prefix)
        )
        self._pending[_SYNCED] = Synced()
        self._told: set[str] = set()
        self._closed = False
        self._wake: asyncio.Future[None] | None = None

    def add(self, key: str, value: bytes | None) -> None:
        """Remember that `key` has this value now; None: that it is gone."""
        if value is not None:
            self._pending[key] = Put(key, value)
        elif key in self._told:
            self._pending[key] = Delete(key)
        else:
            self._pending.pop(key, None)
        self._notify()

    def close(self) -> None:
        self._closed = True
        self._notify()

    async def next(self) -> Change | None:
        """Return the next change, waiting for it; None once the watch is closed."""
        while not self._closed and not self._pending:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._closed:
            return None
        key, change = self._pending.popitem(last=False)
        if isinstance(change, Put):
            self._told.add(key)
        elif isinstance(change, Delete):
            self._told.discard(key)
        return change

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Watches:
    """The open watches of one discovery."""

    def __init__(self) -> None:
        # A dict for its order: watches hear of a change in the order in which they were opened.
        self._open: dict[Watch, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, prefix: str, existing: Mapping[str, bytes]) -> Watch:
        """Begin a watch that first says what of `existing` is under `prefix`."""
        watch = Watch(prefix, existing)
        self._open[watch] = None
        return watch

    def forget(self, watch: Watch) -> None:
        """End a watch whose reader has left. One that has ended is no error."""
        self._open.pop(watch, None)

    def publish(self, key: str, value: bytes | None) -> None:
        """Tell every watch of `key` its new value; None: that it is gone."""
        for watch in self._open:
            if key.startswith(watch.prefix):
                watch.add(key, value)

    def close(self) -> None:
        """End every watch: its generator returns."""
        for watch in self._open:
            watch.close()
        self._open.clear()
