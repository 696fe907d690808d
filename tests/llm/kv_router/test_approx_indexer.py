"""The index of a router of one's own, before engines that publish no events."""

from __future__ import annotations

from dynamo.llm import ApproxKvIndexer
from dynamo.runtime import DistributedRuntime

TOKENS = list(range(12))


async def test_tenants_and_adapters_have_blocks_of_their_own() -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:") as runtime:
        indexer = ApproxKvIndexer(runtime.namespace("ns").component("c"), 4)
        await indexer.process_routing_decision_for_request(TOKENS, 7, cache_namespace="acme")
        await indexer.process_routing_decision_for_request(TOKENS, 8, lora_id=3, cache_namespace="acme")
        found = [
            (await indexer.find_matches_for_request(TOKENS, lora_id, cache_namespace=tenant)).scores
            for lora_id, tenant in ((None, "acme"), (3, "acme"), (None, "other"), (None, None))
        ]
        assert found == [{7: 3}, {8: 3}, {}, {}]
