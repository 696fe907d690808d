"""Older names and arguments of `KvPublisher`. Adapters were numbers there, and callers counted their events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from dynamo.llm._kv_indexer import lora_name_of
from dynamo.llm._kv_publisher import KvPublisher
from dynamo.llm._kv_query import KV_QUERY
from dynamo.runtime import Component, Endpoint


def _endpoint_of(place: Component | Endpoint) -> Endpoint:
    return place if isinstance(place, Endpoint) else place.endpoint(KV_QUERY)


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
            _endpoint_of(endpoint),
            worker_id,
            kv_block_size,
            dp_rank,
            zmq_endpoint=zmq_endpoint,
            zmq_topic=zmq_topic or "",
            batching_timeout_ms=batching_timeout_ms,
        )

    def publish_stored(self, *args: object, **kwargs: object) -> None:
        """As `KvPublisher.publish_stored`, or the older way.

        That is `(event_id, token_ids, num_block_tokens, block_hashes, lora_id, parent_hash=None)`: the event's
        number is not used, and an adapter is known by its number, 0 for none.
        """
        if "event_id" in kwargs or (args and isinstance(args[0], int)):
            self._publish_stored_before(*args, **kwargs)  # type: ignore[arg-type]
        else:
            super().publish_stored(*args, **kwargs)  # type: ignore[arg-type]

    def publish_removed(self, *args: object, **kwargs: object) -> None:
        """`(block_hashes)`, or the older way `(event_id, block_hashes)`."""
        values = [*args, *(kwargs[name] for name in ("event_id", "block_hashes") if name in kwargs)]
        super().publish_removed(cast("Sequence[int]", values[-1]))

    def _publish_stored_before(
        self,
        event_id: int,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        lora_id: int = 0,
        parent_hash: int | None = None,
    ) -> None:
        super().publish_stored(token_ids, num_block_tokens, block_hashes, parent_hash, lora_name=lora_name_of(lora_id))


@dataclass(frozen=True)
class ZmqKvEventPublisherConfig:
    """Where an engine publishes its KV events."""

    worker_id: int
    kv_block_size: int
    zmq_endpoint: str = "tcp://127.0.0.1:5557"
    zmq_topic: str = ""


class ZmqKvEventPublisher(KvPublisher):
    """A `KvPublisher` that publishes what an engine says on ZeroMQ."""

    def __init__(self, component: Component | Endpoint, config: ZmqKvEventPublisherConfig) -> None:
        super().__init__(
            _endpoint_of(component),
            config.worker_id,
            config.kv_block_size,
            zmq_endpoint=config.zmq_endpoint,
            zmq_topic=config.zmq_topic,
        )
