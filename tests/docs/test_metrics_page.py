"""The page on observability names the metrics of the runtime and its planes: all of them, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from dynamo.runtime import DistributedRuntime

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
_NAMED = re.compile(r"`(dynamo_(?:component|client|transport|metrics)_[a-z_]+)`")


async def serve_nothing(request: object) -> object:
    return None


async def test_the_page_names_every_metric_of_the_runtime_and_no_other() -> None:
    table = PAGE.read_text().partition("| Name | What |\n")[2].partition("\n\n")[0]
    named = _NAMED.findall(table)
    async with DistributedRuntime(discovery="memory:", request_plane="tcp:", event_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        await endpoint.serve(serve_nothing)
        await endpoint.client()
        text = runtime.exposition.prepare()("application/openmetrics-text; version=1.0.0")[0].decode()
    families: Iterable[Metric] = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    exposed = [
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("dynamo_")
    ]
    assert sorted(named) == sorted(exposed)
