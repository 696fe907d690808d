"""Names of earlier releases: they must import and type-check, and a checker says of each that it is going."""

from __future__ import annotations

from dynamo._internal import Component
from dynamo.llm import (
    KvEventPublisher,  # pyright: ignore[reportDeprecated]
    KvPushRouter,  # pyright: ignore[reportDeprecated]
    KvPushRouterStream,  # pyright: ignore[reportDeprecated]
    ZmqKvEventListener,  # pyright: ignore[reportDeprecated]
    ZmqKvEventPublisher,  # pyright: ignore[reportDeprecated]
    ZmqKvEventPublisherConfig,  # pyright: ignore[reportDeprecated]
    compute_block_hash_for_seq_py,  # pyright: ignore[reportDeprecated]
)
from dynamo.metrics import (
    CounterVec,  # pyright: ignore[reportDeprecated]
    GaugeVec,  # pyright: ignore[reportDeprecated]
    IntCounter,
    IntCounterVec,
    IntGauge,
    IntGaugeVec,
    RuntimeMetrics,
)
from dynamo.runtime import Endpoint

NAMES = (
    CounterVec,  # pyright: ignore[reportDeprecated]
    GaugeVec,  # pyright: ignore[reportDeprecated]
    IntCounter,
    IntCounterVec,
    IntGauge,
    IntGaugeVec,
    KvPushRouter,  # pyright: ignore[reportDeprecated]
    KvPushRouterStream,  # pyright: ignore[reportDeprecated]
    RuntimeMetrics,
    ZmqKvEventListener,  # pyright: ignore[reportDeprecated]
)


def publish(component: Component, endpoint: Endpoint, token_ids: list[int]) -> None:
    publisher = KvEventPublisher(component, 1, 16)  # pyright: ignore[reportDeprecated]
    publisher.publish_stored(1, token_ids, [16], [7], 0)
    publisher.publish_removed(2, [7])
    config = ZmqKvEventPublisherConfig(1, 16, "tcp://127.0.0.1:5557")  # pyright: ignore[reportDeprecated]
    ZmqKvEventPublisher(component, config).shutdown()  # pyright: ignore[reportDeprecated]
    print(compute_block_hash_for_seq_py(token_ids, 16), endpoint)  # pyright: ignore[reportDeprecated]
