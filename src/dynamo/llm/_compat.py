"""Older names of what concerns KV caches, over what they are now: `KvRouter`, `KvPublisher` and their like.

They behave as they did, and go with version 1.0. Using one warns once, with the name of its successor; importing one
does not. Adapters were numbers there, and callers counted their events.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import msgspec
from typing_extensions import deprecated

from dynamo._core.stability import beta, stable
from dynamo.llm._block_hash import BlockMmInfo, compute_block_hash_for_seq
from dynamo.llm._kv_arguments import (
    check_block_size,
    check_kind,
    check_text,
    check_whole,
    check_whole_or_none,
)
from dynamo.llm._kv_events import (
    Cleared,
    KvCacheEvent,
    KvEvent,
    event_data,
    removed_events,
    stored_events,
    to_u64s,
)
from dynamo.llm._kv_indexer import lora_name_of
from dynamo.llm._kv_publisher import KvPublisher
from dynamo.llm._kv_query import KV_QUERY
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._kv_router.router import KvRouter
from dynamo.llm._kv_router.stream import RoutedStream
from dynamo.llm._kv_zmq_events import ZmqKvEvents
from dynamo.runtime import Endpoint, ResponseStream
from dynamo.runtime._component import Component

log = logging.getLogger(__name__)

#: Events that a listener keeps until somebody takes them; of more, all are given up, and the cache counts as empty.
LISTENED_EVENTS_MAX = 65536


def _endpoint_of(name: str, place: object) -> Endpoint:
    check_kind(name, place, (Component, Endpoint), "the worker's endpoint, or its component")
    return place if isinstance(place, Endpoint) else cast("Component", place).endpoint(KV_QUERY)


# Publishers.


@stable(since="0.1")
@deprecated("dynamo.llm.KvEventPublisher is dynamo.llm.KvPublisher now, and goes with version 1.0")
class KvEventPublisher(KvPublisher):
    """A `KvPublisher` that is made for an endpoint or, as before, a component.

    Every publisher has a local index, whatever `enable_local_indexer` says: it is how routers learn what they missed.
    """

    def __init__(
        self,
        endpoint: Component | Endpoint,
        worker_id: int | None = None,
        kv_block_size: int = 0,
        dp_rank: int = 0,
        enable_local_indexer: bool = True,
        zmq_endpoint: str | None = None,
        zmq_topic: str | None = None,
        batching_timeout_ms: float | None = None,
    ) -> None:
        super().__init__(
            _endpoint_of("endpoint", endpoint),
            worker_id,
            kv_block_size,
            dp_rank,
            zmq_endpoint=zmq_endpoint,
            zmq_topic=zmq_topic or "",
            batching_timeout_ms=batching_timeout_ms,
        )

    @overload
    def publish_stored(
        self,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        parent_hash: int | None = None,
        block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
        lora_name: str | None = None,
        is_eagle: bool = False,
        cache_salt: str | None = None,
    ) -> None: ...
    @overload
    def publish_stored(
        self,
        event_id: int,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        lora_id: int = 0,
        parent_hash: int | None = None,
    ) -> None: ...
    def publish_stored(self, *args: object, **kwargs: object) -> None:
        """As `KvPublisher.publish_stored`, or the older way.

        That is `(event_id, token_ids, num_block_tokens, block_hashes, lora_id, parent_hash=None)`: the event's
        number is not used, and an adapter is known by its number, 0 for none.
        """
        if "event_id" in kwargs or (args and isinstance(args[0], int)):
            self._publish_stored_before(*args, **kwargs)  # type: ignore[arg-type]
        else:
            super().publish_stored(*args, **kwargs)  # type: ignore[arg-type]

    @overload
    def publish_removed(self, block_hashes: Sequence[int]) -> None: ...
    @overload
    def publish_removed(self, event_id: int, block_hashes: Sequence[int]) -> None: ...
    def publish_removed(self, *args: object, **kwargs: object) -> None:
        """`(block_hashes)`, or the older way `(event_id, block_hashes)`."""
        if "event_id" in kwargs or (args and isinstance(args[0], int)):
            self._publish_removed_before(*args, **kwargs)  # type: ignore[arg-type]
        else:
            super().publish_removed(*args, **kwargs)  # type: ignore[arg-type]

    def _publish_stored_before(
        self,
        event_id: int,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        lora_id: int = 0,
        parent_hash: int | None = None,
    ) -> None:
        check_whole_or_none("lora_id", lora_id)
        super().publish_stored(token_ids, num_block_tokens, block_hashes, parent_hash, lora_name=lora_name_of(lora_id))

    def _publish_removed_before(self, event_id: int, block_hashes: Sequence[int]) -> None:
        super().publish_removed(block_hashes)


@stable(since="0.1")
@deprecated(
    "dynamo.llm.ZmqKvEventPublisherConfig is not needed: its fields are arguments of dynamo.llm.KvPublisher now, and "
    "it goes with version 1.0"
)
@dataclass(frozen=True)
class ZmqKvEventPublisherConfig:
    """Where an engine publishes its KV events."""

    worker_id: int
    #: Tokens in a block.
    kv_block_size: int
    zmq_endpoint: str = "tcp://127.0.0.1:5557"
    zmq_topic: str = ""

    def __post_init__(self) -> None:
        check_whole("worker_id", self.worker_id)
        check_block_size("kv_block_size", self.kv_block_size)
        check_text("zmq_endpoint", self.zmq_endpoint)
        check_text("zmq_topic", self.zmq_topic)


@stable(since="0.1")
@deprecated(
    "dynamo.llm.ZmqKvEventPublisher is dynamo.llm.KvPublisher(..., zmq_endpoint=...) now, and goes with version 1.0"
)
class ZmqKvEventPublisher(KvPublisher):
    """A `KvPublisher` that publishes what an engine says on ZeroMQ."""

    def __init__(self, component: Component | Endpoint, config: ZmqKvEventPublisherConfig) -> None:
        check_kind("config", config, ZmqKvEventPublisherConfig, "a ZmqKvEventPublisherConfig")
        super().__init__(
            _endpoint_of("component", component),
            config.worker_id,
            config.kv_block_size,
            zmq_endpoint=config.zmq_endpoint,
            zmq_topic=config.zmq_topic,
        )


@beta(since="0.1")
@deprecated(
    "use dynamo.llm.KvPublisher(..., zmq_endpoint=...) to tell routers what an engine says; "
    "dynamo.llm.ZmqKvEventListener goes with version 1.0"
)
class ZmqKvEventListener:
    """Hears an engine's own KV events on ZeroMQ, and gives them as JSON to whoever asks; without any router.

    To be made in the event loop, and to be shut down.
    """

    def __init__(self, zmq_endpoint: str, zmq_topic: str, kv_block_size: int) -> None:
        check_text("zmq_endpoint", zmq_endpoint)
        check_text("zmq_topic", zmq_topic)
        check_block_size("kv_block_size", kv_block_size)
        self._loop = asyncio.get_running_loop()
        self._heard = _Heard()
        self._source = ZmqKvEvents(self._heard, zmq_endpoint, kv_block_size, topic=zmq_topic)
        self._closing: asyncio.Task[None] | None = None
        self._source.start()

    async def get_events(self) -> list[str]:
        """Return what has come since the last call, as JSON: `{"event_id", "data", "dp_rank"}`. It does not wait."""
        return self._heard.take()

    def shutdown(self) -> None:
        """Hear nothing more. A second call changes nothing."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._source.close(), name="end a listener to KV events")

    async def close(self) -> None:
        """Shut down, and return when that is done."""
        self.shutdown()
        assert self._closing is not None
        await asyncio.shield(self._closing)


class _Heard:
    """Events until they are taken, counted from 1. A `KvEventSink`."""

    def __init__(self) -> None:
        self._num_heard = 0
        self._events: deque[KvCacheEvent] = deque()

    def take(self) -> list[str]:
        """Return all that are there, as JSON."""
        taken = [msgspec.json.encode(event).decode() for event in self._events]
        self._events.clear()
        return taken

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        assert tokens_hashes is not None  # an engine's own events have them here
        for event in stored_events(parent_hash, to_u64s(block_hashes), to_u64s(tokens_hashes)):
            self._add(event)

    def removed(self, block_hashes: Sequence[int]) -> None:
        for event in removed_events(to_u64s(block_hashes)):
            self._add(event)

    def cleared(self) -> None:
        self._add(Cleared())

    def _add(self, event: KvEvent) -> None:
        if len(self._events) >= LISTENED_EVENTS_MAX:
            log.warning("%d KV events were not taken in time: the cache counts as empty", len(self._events))
            self._events.clear()
            self._add(Cleared())
        self._num_heard += 1
        self._events.append(KvCacheEvent(self._num_heard, event_data(event)))


# Routers.


@stable(since="0.1", constructor=False)
@deprecated(
    "dynamo.llm.KvPushRouterStream is what dynamo.llm.KvRouter.generate returns now, and goes with version 1.0",
    category=None,  # nobody makes one; `KvPushRouter` has warned
)
class KvPushRouterStream(RoutedStream):
    """What `KvPushRouter.generate` returns."""


@stable(since="0.1")
@deprecated("dynamo.llm.KvPushRouter is dynamo.llm.KvRouter now, and goes with version 1.0")
class KvPushRouter(KvRouter):
    """A `KvRouter` under its older name."""

    def _stream_of(self, stream: ResponseStream[dict[str, object]], route: KvRoute) -> KvPushRouterStream:
        return KvPushRouterStream(stream, route)


# Hashes.


@stable(since="0.1")
@deprecated(
    "dynamo.llm.compute_block_hash_for_seq_py is dynamo.llm.compute_block_hash_for_seq now, and goes with version 1.0"
)
def compute_block_hash_for_seq_py(
    tokens: Sequence[int],
    kv_block_size: int,
    block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
) -> list[int]:
    """Return the hash of each full block of `tokens` by itself; see `compute_block_hash_for_seq`."""
    return compute_block_hash_for_seq(tokens, kv_block_size, block_mm_infos)
