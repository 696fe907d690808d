"""Keys as etcd's JSON has them, below a root of our own if an etcd is shared, and how they are listed."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from dynamo._core.discovery._etcd_answers import KeyValue, RangeReply
from dynamo._core.discovery._etcd_gateway import Gateway

#: So many keys come in one reply: it may be read whatever their values are.
PAGE_KEYS = 32


@dataclass(frozen=True, slots=True)
class Listing:
    """What there was at one revision."""

    revision: int
    values: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class KeySpace:
    """Everything of ours begins with `root`."""

    root: str = ""

    def key(self, key: str) -> str:
        """Return one key as etcd gets it."""
        return encoded((self.root + key).encode())

    def range(self, prefix: str, *, after: bytes | None = None) -> dict[str, object]:
        """Return what asks for all keys that begin with `prefix`, or for those of them after one of them."""
        raw = (self.root + prefix).encode()
        # The first key behind all of them; UTF-8 never ends in 0xff. "\0" to "\0" is everything.
        end = raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"
        begin = raw or b"\0" if after is None else after + b"\0"
        return {"key": encoded(begin), "range_end": encoded(end)}

    def name(self, kv: KeyValue) -> str:
        """Return the key that etcd tells of, without the root."""
        return kv.key.decode(errors="replace").removeprefix(self.root)


async def list_keys(gateway: Gateway, keys: KeySpace, prefix: str) -> Listing:
    """Return all that begins with `prefix`, at one revision however many replies it takes."""
    reply = await gateway.call("kv/range", {**keys.range(prefix), "limit": str(PAGE_KEYS)}, RangeReply)
    revision, values = reply.header.revision, {keys.name(kv): kv.value for kv in reply.kvs}
    while reply.more:
        rest = keys.range(prefix, after=reply.kvs[-1].key)
        body = {**rest, "limit": str(PAGE_KEYS), "revision": str(revision)}
        reply = await gateway.call("kv/range", body, RangeReply)
        values.update((keys.name(kv), kv.value) for kv in reply.kvs)
    return Listing(revision, values)


async def revision_of(gateway: Gateway, keys: KeySpace, prefix: str) -> int:
    """Return the revision that etcd is at, by agreement of its members, as somebody who may read `prefix`."""
    reply = await gateway.call("kv/range", {"key": keys.range(prefix)["key"]}, RangeReply)
    return reply.header.revision


def encoded(data: bytes) -> str:
    """Return a key or a value as etcd's JSON has it."""
    return base64.b64encode(data).decode()
