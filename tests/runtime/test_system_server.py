"""The system server: on when asked for, honest about health, and its counters are what clients have seen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from dynamo._core.errors import ConfigError
from dynamo.runtime import DistributedRuntime, DynamoError, HandlerError, InvalidArgument
from dynamo.runtime._health import HealthKind
from dynamo.runtime._measured import ErrorType
from dynamo.runtime._system import SystemSettings, system_settings

DEADLINE_S = 60.0


@pytest.fixture
async def runtime(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DistributedRuntime]:
    monkeypatch.setenv("DYN_SYSTEM_PORT", "0")
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def get(runtime: DistributedRuntime, path: str, accept: str = "*/*") -> httpx.Response:
    assert runtime.system_url is not None
    async with httpx.AsyncClient(base_url=runtime.system_url, timeout=DEADLINE_S) as client:
        return await client.get(path, headers={"accept": accept})


async def echo(request: object) -> AsyncIterator[object]:
    yield request


# Where it listens.


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, None),
        ({"DYN_SYSTEM_PORT": ""}, None),
        ({"DYN_SYSTEM_PORT": "-1"}, None),
        ({"DYN_SYSTEM_PORT": "-1", "DYNAMO_SYSTEM_APP_ENABLED": "true"}, None),
        ({"DYN_SYSTEM_PORT": "9090"}, SystemSettings("127.0.0.1", 9090)),
        (
            {"DYN_SYSTEM_PORT": "0", "DYN_SYSTEM_HOST": "::1", "DYN_INSECURE": "1"},
            SystemSettings("::1", 0, insecure=True),
        ),
        ({"DYNAMO_SYSTEM_APP_ENABLED": "false", "DYNAMO_SYSTEM_APP_PORT": "9"}, None),
        ({"DYNAMO_SYSTEM_APP_ENABLED": "true"}, SystemSettings("127.0.0.1", 0)),
        (
            {
                "DYNAMO_SYSTEM_APP_ENABLED": "true",
                "DYNAMO_SYSTEM_APP_PORT": "5000",
                "DYNAMO_SYSTEM_APP_HOST": "localhost",
            },
            SystemSettings("localhost", 5000),
        ),
    ],
)
def test_the_variables_say_where_it_listens(environment: dict[str, str], settings: SystemSettings | None) -> None:
    assert system_settings(environment) == settings


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"DYN_SYSTEM_PORT": "http"}, "DYN_SYSTEM_PORT='http'"),
        ({"DYN_SYSTEM_PORT": "65536"}, "DYN_SYSTEM_PORT='65536'"),
        ({"DYN_SYSTEM_PORT": "-2"}, "DYN_SYSTEM_PORT='-2'"),
        ({"DYNAMO_SYSTEM_APP_ENABLED": "perhaps"}, "DYNAMO_SYSTEM_APP_ENABLED='perhaps'"),
        ({"DYNAMO_SYSTEM_APP_ENABLED": "1", "DYNAMO_SYSTEM_APP_PORT": "x"}, "DYNAMO_SYSTEM_APP_PORT='x'"),
        ({"DYN_SYSTEM_PORT": "0", "DYN_INSECURE": "x"}, "DYN_INSECURE='x'"),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        system_settings(environment)


async def test_without_a_port_there_is_no_system_server() -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        assert runtime.system_url is None


async def test_a_runtime_may_go_without_it_whatever_is_set(runtime: DistributedRuntime) -> None:
    other = DistributedRuntime(discovery="memory:", request_plane="inproc:", system_server=False)
    async with other as second:
        assert runtime.system_url is not None
        assert second.system_url is None


async def test_an_address_that_others_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYN_SYSTEM_PORT", "0")
    monkeypatch.setenv("DYN_SYSTEM_HOST", "0.0.0.0")
    with pytest.raises(ConfigError, match="DYN_INSECURE=true"):
        await DistributedRuntime(discovery="memory:", request_plane="inproc:").__aenter__()
    monkeypatch.setenv("DYN_INSECURE", "true")
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        assert str(runtime.system_url).startswith("http://0.0.0.0:")


async def test_a_port_in_use_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("DYN_SYSTEM_PORT", str(port))
        with pytest.raises(ConfigError, match=rf"127.0.0.1:{port}: Address already in use.*DYN_SYSTEM_PORT=0"):
            await DistributedRuntime(discovery="memory:", request_plane="inproc:").__aenter__()


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "a" * 70])
async def test_a_host_that_cannot_be_listened_on_is_named_with_its_variable(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {"PORT": "0", "HOST": host}.items():
        monkeypatch.setenv(f"DYN_SYSTEM_{variable}", value)
    monkeypatch.setenv("DYN_INSECURE", "1")
    with pytest.raises(ConfigError, match=f"^DYN_SYSTEM_HOST={host}: "):
        await DistributedRuntime(discovery="memory:", request_plane="inproc:").__aenter__()


async def test_it_is_gone_with_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYN_SYSTEM_PORT", "0")
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        assert (await get(runtime, "/live")).status_code == 200
    with pytest.raises(httpx.ConnectError):
        await get(runtime, "/live")


# Health.


async def test_a_process_is_ready_when_it_serves_an_endpoint(runtime: DistributedRuntime) -> None:
    before = await get(runtime, "/health")
    assert (before.status_code, before.json()["status"], before.json()["endpoints"]) == (503, "notready", {})
    assert before.json()["reason"] == "it serves no endpoint yet"
    await runtime.endpoint("ns.comp.generate").serve(echo)
    after = await get(runtime, "/health")
    assert (after.status_code, after.json()["status"]) == (200, "ready")
    assert after.json()["endpoints"] == {"generate": "ready"}
    assert set(after.json()["uptime"]) == {"secs", "nanos"}
    assert (await get(runtime, "/readyz")).status_code == 200


async def test_two_endpoints_of_one_name_are_told_apart(runtime: DistributedRuntime) -> None:
    await runtime.endpoint("ns.a.generate").serve(echo)
    await runtime.endpoint("ns.b.generate").serve(echo)
    assert set((await get(runtime, "/health")).json()["endpoints"]) == {"ns/a/generate", "ns/b/generate"}


async def test_user_code_may_say_that_it_is_not_ready(runtime: DistributedRuntime) -> None:
    runtime.set_health_status(ready=True)
    assert (await get(runtime, "/health")).status_code == 200
    runtime.set_health_status(ready=False)
    assert (await get(runtime, "/health")).status_code == 503
    assert (await get(runtime, "/live")).json() == {"status": "live"}


async def test_a_process_that_drains_is_alive_and_not_ready(runtime: DistributedRuntime) -> None:
    runtime.set_health_status(ready=True)
    runtime.health.add(HealthKind.LIVENESS, "engine", lambda: False)
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(request: object) -> AsyncIterator[object]:
        begun.set()
        await release.wait()
        yield request

    endpoint = runtime.endpoint("ns.comp.slow")
    served = await endpoint.serve(slow)
    call = asyncio.create_task(collect(runtime, "slow", 1))
    await asyncio.wait_for(begun.wait(), DEADLINE_S)
    closing = asyncio.create_task(served.close())
    await asyncio.sleep(0)
    answer = await get(runtime, "/health")
    assert (answer.status_code, answer.json()["endpoints"]) == (503, {"slow": "notready"})
    assert answer.json()["reason"] == "slow drains"
    release.set()
    await closing
    assert await call == [1]
    assert (await get(runtime, "/live")).status_code == 503
    runtime.shutdown()
    assert (await get(runtime, "/live")).status_code == 200
    assert (await get(runtime, "/health")).json()["reason"] == "it is shutting down"


async def test_a_check_decides(runtime: DistributedRuntime) -> None:
    answers: list[object] = [True, 0, LookupError("no\nengine"), SystemExit(3), StopIteration(), "yes"]

    def ask() -> object:
        answer = answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def ask_async() -> object:
        return ask()

    for kind, path in ((HealthKind.LIVENESS, "/live"), (HealthKind.READINESS, "/health")):
        runtime.set_health_status(ready=True)
        for check in (ask, ask_async):
            added = runtime.health.add(kind, "engine", check)
            statuses = []
            for _ in range(len(answers)):
                response = await get(runtime, path)
                statuses.append(response.status_code)
                if isinstance(answers[0], LookupError):
                    assert response.text == "engine raised LookupError: no engine\n"
                answers.append(answers.pop(0))
            assert statuses == [200, 503, 500, 500, 500, 200]
            runtime.health.remove(added)


async def test_a_check_that_raises_what_has_no_text_is_a_verdict_too(runtime: DistributedRuntime) -> None:
    class Worn(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def ask() -> bool:
        raise Worn

    runtime.health.add(HealthKind.LIVENESS, "engine", ask)
    response = await get(runtime, "/live")
    assert response.text == "engine raised Worn: <Worn that cannot be shown: ValueError>\n"


async def test_checks_are_bounded_in_number(runtime: DistributedRuntime) -> None:
    for number in range(64):
        runtime.health.add(HealthKind.LIVENESS, str(number), lambda: True)
    with pytest.raises(DynamoError, match="at most 64"):
        runtime.health.add(HealthKind.LIVENESS, "one more", lambda: True)
    assert (await get(runtime, "/live")).status_code == 200


# Counters.


async def collect(runtime: DistributedRuntime, name: str, request: object) -> list[object]:
    client = await runtime.endpoint(f"ns.comp.{name}").client()
    async with asyncio.timeout(DEADLINE_S):
        return [item async for item in await client.generate(request, annotated=False)]


async def scrape(runtime: DistributedRuntime) -> dict[str, Metric]:
    response = await get(runtime, "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in parse_text(response.text)}


def value(family: Metric, suffix: str = "", **labels: str) -> float:
    [found] = [
        sample.value
        for sample in family.samples
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items()
    ]
    return found


async def test_the_counters_are_what_the_callers_have_seen(runtime: DistributedRuntime) -> None:
    cancelled = asyncio.Event()

    async def mixed(request: str) -> AsyncIterator[object]:
        if request == "fails":
            yield 1
            raise LookupError("failed")
        if request == "unspeakable":
            yield object()
        if request == "waits":
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        yield request

    endpoint = runtime.endpoint("ns.comp.mixed")
    await endpoint.serve(mixed)
    for _ in range(5):
        assert await collect(runtime, "mixed", "good") == ["good"]
    for _ in range(3):
        with pytest.raises(HandlerError):
            await collect(runtime, "mixed", "fails")
    with pytest.raises(DynamoError):
        await collect(runtime, "mixed", "unspeakable")
    client = await endpoint.client()
    for _ in range(2):
        cancelled.clear()
        stream = await client.generate("waits")
        await anext(stream)
        if _ == 0:
            assert value((await scrape(runtime))["dynamo_component_inflight_requests"]) == 1
        await stream.aclose()
        await asyncio.wait_for(cancelled.wait(), DEADLINE_S)

    families = await scrape(runtime)
    labels = {"dynamo_namespace": "ns", "dynamo_component": "comp", "dynamo_endpoint": "mixed"}
    assert value(families["dynamo_component_requests"], "_total", **labels) == 11
    assert value(families["dynamo_component_errors"], "_total", error_type="generate", **labels) == 3
    assert value(families["dynamo_component_errors"], "_total", error_type="serialization", **labels) == 1
    assert value(families["dynamo_component_cancellation"], "_total", **labels) == 2
    assert value(families["dynamo_component_inflight_requests"], **labels) == 0
    assert value(families["dynamo_component_request_duration_seconds"], "_count", **labels) == 11
    assert value(families["dynamo_component_request_duration_seconds"], "_bucket", le="+Inf", **labels) == 11
    assert value(families["dynamo_component_request_bytes"], "_total", **labels) > 11
    assert value(families["dynamo_component_uptime_seconds"], **labels) > 0
    assert families["process_resident_memory_bytes"].samples


async def test_a_request_of_the_wrong_shape_counts(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("ns.comp.typed")
    await endpoint.serve(echo, request_type=list[int])
    with pytest.raises(InvalidArgument):
        await collect(runtime, "typed", "text")
    families = await scrape(runtime)
    assert value(families["dynamo_component_errors"], "_total", error_type="deserialization") == 1
    assert value(families["dynamo_component_inflight_requests"]) == 0


async def test_every_kind_of_handler_counts(runtime: DistributedRuntime) -> None:
    async def unary(request: object) -> object:
        return request

    def sync(request: object) -> object:
        return request

    def sync_stream(request: object) -> object:
        return iter([request])

    for handler in (unary, sync, sync_stream):
        await runtime.endpoint(f"ns.comp.{handler.__name__}").serve(handler)
        assert await collect(runtime, handler.__name__, 1) == [1]
    requests = (await scrape(runtime))["dynamo_component_requests"]
    assert [sample.value for sample in requests.samples] == [1, 1, 1]


async def test_counters_are_there_before_the_first_request_and_go_on_after_the_end(
    runtime: DistributedRuntime,
) -> None:
    endpoint = runtime.endpoint("ns.comp.mixed")
    served = await endpoint.serve(echo)
    errors = (await scrape(runtime))["dynamo_component_errors"]
    assert {sample.labels["error_type"]: sample.value for sample in errors.samples} == dict.fromkeys(ErrorType, 0)
    await collect(runtime, "mixed", 1)
    await served.close()
    await endpoint.serve(echo)
    await collect(runtime, "mixed", 1)
    assert value((await scrape(runtime))["dynamo_component_requests"], "_total") == 2


async def test_a_strict_parser_reads_openmetrics(runtime: DistributedRuntime) -> None:
    await runtime.endpoint("ns.comp.mixed").serve(echo)
    await collect(runtime, "mixed", 1)
    response = await get(runtime, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(response.text)}  # type: ignore[no-untyped-call]
    assert {name for name in names if name.startswith("dynamo_")} == {
        "dynamo_component_requests",
        "dynamo_component_request_bytes",
        "dynamo_component_response_bytes",
        "dynamo_component_drain_time_seconds",
        "dynamo_component_cleanup_time_seconds",
        "dynamo_component_cancellation",
        "dynamo_component_errors",
        "dynamo_component_inflight_requests",
        "dynamo_component_uptime_seconds",
        "dynamo_component_request_duration_seconds",
        "dynamo_component_rejected_requests",
        "dynamo_component_queued_requests",
        "dynamo_component_canaries",
        "dynamo_component_canary_failures",
        "dynamo_component_discovery_degraded",
        "dynamo_component_discovery_degraded_seconds",
        "dynamo_component_discovery_lease_renewal_failures",
        "dynamo_component_discovery_lease_renewal_seconds",
        "dynamo_component_discovery_leases_regranted",
        "dynamo_client_requests",
        "dynamo_client_retries",
        "dynamo_client_retries_denied",
        "dynamo_client_stalls",
        "dynamo_client_quarantined",
        "dynamo_client_quarantined_instances",
        "dynamo_client_retries_left",
        "dynamo_metrics_label_values_refused",
        "dynamo_transport_event_dropped",
        "dynamo_transport_event_missed",
        "dynamo_transport_event_published",
        "dynamo_transport_event_refused",
        "dynamo_transport_event_unreadable",
        "dynamo_transport_tcp_bytes_received",
        "dynamo_transport_tcp_bytes_sent",
        "dynamo_transport_tcp_connections",
        "dynamo_transport_tcp_connections_opened",
        "dynamo_transport_tcp_errors",
        "dynamo_transport_tcp_frames_rejected",
        "dynamo_transport_tcp_hello_failures",
        "dynamo_transport_tcp_messages_ignored",
        "dynamo_transport_tcp_pool_active",
        "dynamo_transport_tcp_pool_idle",
        "dynamo_transport_tcp_unread_closed",
    }
