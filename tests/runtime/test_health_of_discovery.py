"""What the system server says while discovery is degraded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._discovery_health import DiscoveryCollector, degradation

DEADLINE_S = 60.0
PREFIX = "dynamo_component_discovery_"


@pytest.fixture
def discovery() -> MemoryDiscovery:
    return MemoryDiscovery()


@pytest.fixture
async def runtime(discovery: MemoryDiscovery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DistributedRuntime]:
    monkeypatch.setenv("DYN_SYSTEM_PORT", "0")
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        yield runtime


async def get(runtime: DistributedRuntime, path: str) -> httpx.Response:
    assert runtime.system_url is not None
    async with httpx.AsyncClient(base_url=runtime.system_url, timeout=DEADLINE_S) as client:
        return await client.get(path)


async def scrape(runtime: DistributedRuntime) -> dict[str, float]:
    """The samples that tell of discovery, by name; those of buckets with their bound."""
    families = text_string_to_metric_families((await get(runtime, "/metrics")).text)
    samples = [sample for family in families for sample in family.samples if sample.name.startswith(PREFIX)]
    return {sample.name.removeprefix(PREFIX) + sample.labels.get("le", ""): sample.value for sample in samples}


async def test_a_process_whose_discovery_is_degraded_still_takes_requests_and_says_so(
    runtime: DistributedRuntime, discovery: MemoryDiscovery
) -> None:
    runtime.set_health_status(ready=True)
    discovery.status.note_trouble("a lease", "etcd is away")
    answer = await get(runtime, "/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["degraded"]["reason"] == "etcd is away"
    assert answer.json()["degraded"]["seconds"] >= 0
    assert (await get(runtime, "/live")).json() == {"status": "live"}
    discovery.status.note_well("a lease")
    assert (await get(runtime, "/health")).json()["status"] == "ready"


async def test_a_process_that_is_not_ready_is_no_better_for_being_degraded(
    runtime: DistributedRuntime, discovery: MemoryDiscovery
) -> None:
    discovery.status.note_trouble("a lease", "etcd is away")
    answer = await get(runtime, "/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "notready")


async def test_it_is_well_only_when_everything_is(discovery: MemoryDiscovery) -> None:
    discovery.status.note_trouble("a lease", "etcd is away")
    since = discovery.status.since
    discovery.status.note_trouble("a watch", "etcd refuses us")
    discovery.status.note_well("a lease")
    assert (discovery.status.reason, discovery.status.since) == ("etcd refuses us", since)
    discovery.status.note_well("a watch")
    discovery.status.note_well("a watch")
    assert (discovery.status.is_degraded, discovery.status.reason, discovery.status.since) == (False, "", None)


async def test_the_log_hears_of_the_beginning_and_the_end(
    discovery: MemoryDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    for source in ("a lease", "a watch"):
        discovery.status.note_trouble(source, "etcd is away")
    for source in ("a lease", "a watch"):
        discovery.status.note_well(source)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].endswith("etcd is away")
    assert said[1].startswith("discovery is well again")


async def test_a_source_that_goes_takes_its_trouble_along_and_nobody_says_that_all_is_well(
    discovery: MemoryDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    discovery.status.note_trouble("a lease", "etcd is away")
    discovery.status.forget("a lease")
    assert (discovery.status.is_degraded, discovery.status.since) == (False, None)
    assert "well again" not in caplog.text


async def test_metrics_of_discovery_begin_at_zero_and_count_renewals(
    runtime: DistributedRuntime, discovery: MemoryDiscovery
) -> None:
    before = await scrape(runtime)
    assert before["degraded"] == before["lease_renewal_failures_total"] == before["leases_regranted_total"] == 0
    assert before["lease_renewal_seconds_count"] == 0
    discovery.status.note_trouble("a lease", "etcd is away")
    discovery.status.renew_failures += 2
    discovery.status.note_renewal(0.004)
    discovery.status.note_renewal(60.0)
    after = await scrape(runtime)
    assert (after["degraded"], after["lease_renewal_failures_total"]) == (1, 2)
    assert after["lease_renewal_seconds_count"] == after["lease_renewal_seconds_bucket+Inf"] == 2
    assert after["lease_renewal_seconds_bucket0.005"] == after["lease_renewal_seconds_bucket5.0"] == 1
    assert after["lease_renewal_seconds_sum"] == pytest.approx(60.004)


async def test_the_system_server_answers_before_the_process_has_joined(runtime: DistributedRuntime) -> None:
    outside = DistributedRuntime(discovery="memory:", request_plane="inproc:")
    assert degradation(outside) is None
    assert next(sample.value for metric in DiscoveryCollector(outside).collect() for sample in metric.samples) == 0
