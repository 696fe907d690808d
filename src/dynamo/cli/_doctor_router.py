"""Does the KV router of a frontend help: what its metrics say, and what that means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from dynamo.cli._doctor_finding import Finding, fail, ok, warn
from dynamo.cli._doctor_http import get
from dynamo.llm._zero_hits import Hits, warning_of

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

PREFIX = "dynamo_frontend_router_"

#: The metrics of one model's router, by their names without the beginning; those with other labels are added up.
Counts = Mapping[str, float]


class _Recent(msgspec.Struct):
    """What of `/v1/explain` is looked at."""

    warnings: list[str] = []


async def check_router(url: str, models: Sequence[str]) -> list[Finding]:
    """Look at the router of each model of a frontend."""
    counts = read_counts((await get(url, "/metrics")).body.decode(errors="replace"))
    if not counts and not models:
        return [ok("router", f"{url} has no model to route for, so nothing is known of how it routes")]
    if not counts:
        return [ok("router", f"{url} does not route by KV cache, for {', '.join(models)}")]
    warnings = await _warnings_of(url)
    return [finding for model, values in sorted(counts.items()) for finding in judge(model, values, warnings)]


async def _warnings_of(url: str) -> list[str]:
    """What the frontend itself finds wrong with routing now."""
    try:
        return msgspec.json.decode((await get(url, "/v1/explain?limit=1")).body, type=_Recent).warnings
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def read_counts(text: str) -> dict[str, Counts]:
    """Return what the routers have counted, by model. What is no metric of a router is left out."""
    counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    try:
        for sample in _samples(text):
            if (model := sample.labels.get("model")) is not None:
                counts[model][sample.name.removeprefix(PREFIX)] += sample.value
    except (ValueError, KeyError, IndexError):
        return {}
    return {model: dict(values) for model, values in counts.items() if "decisions_total" in values}


def _samples(text: str) -> Iterator[Sample]:
    """Yield the numbers of the routers' metrics, without histograms."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        if family.name.startswith(PREFIX) and family.type in ("counter", "gauge"):
            yield from family.samples


def judge(model: str, counts: Counts, warnings: Sequence[str] = ()) -> Iterator[Finding]:
    """Say what the counts of one model's router mean; `warnings` are the frontend's own, of all its models."""
    check = f"router {model}"
    hits = Hits._make(int(counts.get(f"{name}_total", 0)) for name in Hits._fields)
    wrong = [*_of_index(check, counts)]
    told = next((one for one in warnings if f"for the model {model!r}:" in one), None)
    if zero_hits := told or warning_of(model, hits, since="since it started"):
        what, _, remedy = zero_hits.partition(". ")
        wrong.append(warn(check, what, remedy))
    yield from wrong or [ok(check, _hit_rate(counts))]


def _of_index(check: str, counts: Counts) -> Iterator[Finding]:
    """What is wrong with the index that is made of events, if there is one."""
    if "index_following" not in counts:
        return
    if not counts["index_following"]:
        yield fail(
            check, "the frontend does not hear KV events", "see whether the event plane and discovery can be reached"
        )
    if refused := int(counts.get("index_refused_publishers", 0)):
        remedy = "start all with one block size; the log of the frontend has both"
        yield fail(check, f"workers whose events are refused for their block size: {refused}", remedy)
    if not counts.get("prompt_blocks_total") or counts.get("index_blocks"):
        return
    num_publishers = int(counts.get("index_publishers", 0))
    if not num_publishers:
        remedy = (
            "start the workers without --no-kv-events, and others with a dynamo.llm.KvPublisher; if they have no "
            "events, start the frontend with --no-router-use-kv-events"
        )
        yield warn(check, "it learns from KV events what is cached, and no worker publishes any", remedy)
    elif num_publishers > refused:
        remedy = "see whether all have the same DYN_EVENT_PLANE, and whether the prefix caches of the workers are on"
        yield warn(check, f"the index is empty, and workers publish KV events: {num_publishers}", remedy)


def _hit_rate(counts: Counts) -> str:
    decisions, blocks = int(counts["decisions_total"]), counts.get("prompt_blocks_total", 0)
    if not decisions:
        return "no requests yet"
    rate = f"hit rate {counts.get('predicted_cached_blocks_total', 0) / blocks:.0%}" if blocks else "no full blocks"
    return f"requests: {decisions}, {rate}{_blocks(counts)}"


def _blocks(counts: Counts) -> str:
    if "index_blocks" in counts:
        return f"; blocks that are known to be cached: {int(counts['index_blocks'])}"
    if "sent_blocks" in counts:
        return f"; blocks that were sent and are taken for cached: {int(counts['sent_blocks'])}"
    return ""
