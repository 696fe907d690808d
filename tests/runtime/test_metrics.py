"""The metrics of a process: what its planes have counted, and what its components add."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import pytest
from prometheus_client import Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.virtual_time import in_virtual_time

from dynamo._core import wire
from dynamo._core.limits import EVENT_QUEUE_EVENTS_MAX
from dynamo._core.request_plane import PlaneStats
from dynamo.runtime import DistributedRuntime, DynamoError, EngineShutdown, Gap, HandlerError
from dynamo.runtime._exposition import COLLECTORS_MAX
from dynamo.runtime._transport_metrics import TransportCollector

DEADLINE_S = 60.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def one_runtime() -> DistributedRuntime:
    return DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:")


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with one_runtime() as runtime:
        yield runtime


def samples(runtime: DistributedRuntime) -> dict[tuple[str, str], float]:
    """Every sample by its name and its label, read by a strict parser."""
    text = runtime.exposition.prepare()(OPENMETRICS)[0].decode()
    families: Iterable[Metric] = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


class Fixed:
    """A source of one gauge."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value

    def collect(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self.name, "A number", self.value)]


class Broken:
    def collect(self) -> Iterable[Metric]:
        raise LookupError("no numbers")


async def echo(request: object) -> AsyncIterator[object]:
    yield request


# What components add.


def test_the_planes_of_a_runtime_that_has_not_joined_have_counted_nothing() -> None:
    collector = TransportCollector(DistributedRuntime(discovery="memory:", request_plane="tcp:"))
    assert {sample.value for family in collector.collect() for sample in family.samples} == {0}


async def test_what_is_added_is_exposed_until_it_is_removed(runtime: DistributedRuntime) -> None:
    jobs: Counter = Counter("my_jobs", "Jobs that are done", ["kind"], registry=None)
    jobs.labels("odd").inc(3)
    fixed = Fixed("my_gauge", 1.5)
    runtime.exposition.add(jobs)
    runtime.exposition.add(fixed)
    numbers = samples(runtime)
    assert (numbers["my_jobs_total", "odd"], numbers["my_gauge", ""]) == (3, 1.5)
    for _ in range(2):
        runtime.exposition.remove(fixed)
    assert ("my_gauge", "") not in samples(runtime)


async def test_a_name_counts_once_and_a_source_that_fails_costs_nobody_else_anything(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    for source in (
        Fixed("my_gauge", 1),
        Broken(),
        Fixed("my_gauge", 2),
        Fixed("dynamo_transport_tcp_connections", 7),
        Fixed("last", 3),
    ):
        runtime.exposition.add(source)
    numbers = samples(runtime)
    assert (numbers["my_gauge", ""], numbers["last", ""]) == (1, 3)
    assert numbers["dynamo_transport_tcp_connections", ""] == 0
    assert "the metric my_gauge of" in caplog.text
    assert "the metric dynamo_transport_tcp_connections of" in caplog.text
    assert "no numbers" in caplog.text


class Unwritable:
    """A source of something that no text can say."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self.metrics


@pytest.mark.parametrize(
    "metrics",
    [
        [None],
        [GaugeMetricFamily("bad", "half of \ud800", 1)],
        [GaugeMetricFamily("bad", "A number", "many")],  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_what_cannot_be_written_costs_nobody_else_anything(
    runtime: DistributedRuntime, accept: str, metrics: list[Metric], caplog: pytest.LogCaptureFixture
) -> None:
    for source in (Fixed("first", 1), Unwritable(metrics), Fixed("last", 3)):
        runtime.exposition.add(source)
    lines = runtime.exposition.prepare()(accept)[0].decode().splitlines()
    assert {"first 1.0", "last 3.0"} <= set(lines)
    assert "left out" in caplog.text


@pytest.mark.parametrize("source", [None, 3, object()])
async def test_what_cannot_be_collected_from_is_not_added(runtime: DistributedRuntime, source: Unwritable) -> None:
    with pytest.raises(TypeError, match=r"source=.* is of type \w+: give something with a collect\(\)"):
        runtime.exposition.add(source)


async def test_sources_are_bounded_in_number(runtime: DistributedRuntime) -> None:
    for number in range(COLLECTORS_MAX):
        runtime.exposition.add(Fixed(f"gauge_{number}", 0))
    with pytest.raises(DynamoError, match="collects several"):
        runtime.exposition.add(Fixed("one_more", 0))


# What the planes have counted.


async def test_every_reason_is_there_at_zero_whatever_the_plane(runtime: DistributedRuntime) -> None:
    numbers = samples(runtime)
    rejected = {label: value for (name, label), value in numbers.items() if name.endswith("frames_rejected_total")}
    assert set(rejected) == set(PlaneStats().frames_rejected) > set(wire.REASONS)
    assert set(rejected.values()) == {0}
    assert numbers["dynamo_transport_tcp_hello_failures_total", "unauthorized"] == 0


async def test_bytes_and_connections_are_counted_where_they_pass() -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery="memory:", request_plane="tcp:") as runtime,
    ):
        endpoint = runtime.endpoint("ns.comp.generate")
        await endpoint.serve(echo)
        client = await endpoint.client()
        assert [item async for item in await client.generate("x" * 1000, annotated=False)] == ["x" * 1000]
        numbers = samples(runtime)
        assert numbers["dynamo_transport_tcp_connections", ""] == 2  # both ends are here
        assert numbers["dynamo_transport_tcp_connections_opened_total", ""] == 2
        assert numbers["dynamo_transport_tcp_bytes_sent_total", ""] > 2000
        assert numbers["dynamo_transport_tcp_bytes_received_total", ""] > 2000
        assert numbers["dynamo_transport_tcp_errors_total", ""] == 0


async def test_the_pool_tells_connections_that_are_in_use_from_those_that_wait() -> None:
    go_on = asyncio.Event()

    async def waits(request: object) -> AsyncIterator[object]:
        yield "begun"
        await go_on.wait()

    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery="memory:", request_plane="tcp:") as runtime,
    ):
        endpoint = runtime.endpoint("ns.comp.generate")
        await endpoint.serve(waits)
        client = await endpoint.client()
        pool = [f"dynamo_transport_tcp_pool_{state}" for state in ("active", "idle")]
        assert [samples(runtime)[name, ""] for name in pool] == [0, 0]
        stream = await client.generate("x", annotated=False)
        await anext(stream)
        assert [samples(runtime)[name, ""] for name in pool] == [1, 0]
        go_on.set()
        assert await stream.batch() == []
        assert [samples(runtime)[name, ""] for name in pool] == [0, 1]


@pytest.mark.parametrize("plane", ["inproc:", "tcp:"])
@pytest.mark.parametrize("places", [None, 4])
async def test_the_bytes_of_responses_are_counted_once_a_request_has_ended(plane: str, places: int | None) -> None:
    size_bytes, num_items = 50_000, 60  # several windows

    async def many(request: object) -> AsyncIterator[object]:
        for _ in range(num_items):
            yield "x" * (size_bytes - 3)  # and so much says msgpack of it
        if request == "fails":
            raise ValueError("no")

    async def one(request: object) -> object:
        return "x" * (size_bytes - 3)

    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery="memory:", request_plane=plane) as runtime,
    ):
        for handler in (many, one):
            endpoint = runtime.endpoint(f"ns.comp.{handler.__name__}")
            await endpoint.serve(handler, max_concurrent_requests=places)
            client = await endpoint.client()
            async for _ in await client.generate("x"):
                pass
            with contextlib.suppress(HandlerError):
                async for _ in await client.generate("fails"):
                    pass
        numbers = samples(runtime)
        name = "dynamo_component_response_bytes_total"
        assert numbers[name, "comp,one,ns"] == 2 * size_bytes
        assert numbers[name, "comp,many,ns"] == 2 * num_items * size_bytes


@in_virtual_time(one_runtime)
async def test_how_long_an_endpoint_took_to_drain_and_to_end_what_was_left_is_told(runtime: DistributedRuntime) -> None:
    begun = asyncio.Event()

    async def waits(request: object) -> AsyncIterator[object]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            await asyncio.sleep(0.05)  # it cleans up

    endpoint = runtime.endpoint("ns.comp.waits")
    drain, cleanup = (f"dynamo_component_{part}_time_seconds" for part in ("drain", "cleanup"))
    served = await endpoint.serve(waits)
    assert [samples(runtime)[name, "comp,waits,ns"] for name in (drain, cleanup)] == [0, 0]
    stream = await (await endpoint.client()).generate("x")
    await begun.wait()
    await served.close(drain_s=0.1)
    with pytest.raises(EngineShutdown):
        await anext(stream)
    numbers = samples(runtime)
    assert numbers[drain, "comp,waits,ns"] == 0.1
    assert numbers[cleanup, "comp,waits,ns"] == pytest.approx(0.05)


async def test_a_peer_that_says_no_hello_is_an_error_with_its_reason() -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery="memory:", request_plane="tcp://127.0.0.1:0?local=0") as runtime,
    ):
        served = await runtime.endpoint("ns.comp.generate").serve(echo)
        client = await runtime.endpoint("ns.comp.generate").client()
        host, port = client.instances()[0].address.partition("://")[2].split("/")[0].rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        await served.close()
        numbers = samples(runtime)
        of_peers = [
            value for (name, _), value in numbers.items() if name.endswith(("rejected_total", "failures_total"))
        ]
        assert sum(of_peers) == numbers["dynamo_transport_tcp_errors_total", ""] == 1


async def test_events_are_counted_and_so_is_what_was_missed(runtime: DistributedRuntime) -> None:
    subscription = await runtime.events.subscribe("ns.news")
    published = EVENT_QUEUE_EVENTS_MAX + 10
    for number in range(published):  # more than a reader who does not read is kept
        await runtime.events.publish("ns.news", number)
    async with asyncio.timeout(DEADLINE_S):
        heard = await subscription.batch()
    missed = sum(item.missed or 0 for item in heard if isinstance(item, Gap))
    numbers = samples(runtime)
    assert numbers["dynamo_transport_event_published_total", ""] == published
    assert numbers["dynamo_transport_event_missed_total", ""] == missed > 0
