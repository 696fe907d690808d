"""How a frontend is observed: the trace and the id of a request, and the metrics on its own port."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.frontend.scene import CHAT, DEADLINE_S, MODEL, FakeModels, FakePipeline, client_of, pipeline_of
from tests.llm.scene import World

from dynamo._core.context import Context, current_context
from dynamo._core.errors import Disconnected
from dynamo.frontend._app import create_app
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._metrics import MigrationCollector
from dynamo.frontend._serving import FrontendServer
from dynamo.llm._migration import MigrationStats, MigrationType
from dynamo.llm._openai import OpenAIRequest
from dynamo.llm._response_check import Violation

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

#: What a frontend tells of its models. A dashboard that asks for one of these must go on to find it.
GOLDEN = {
    "dynamo_frontend_model_contract_violations",
    "dynamo_frontend_model_migration",
    "dynamo_frontend_model_migration_limit_exceeded",
    "dynamo_frontend_model_migration_max_seq_len_exceeded",
    "dynamo_frontend_model_poisoned_requests",
}


async def post(pipeline: FakePipeline, headers: dict[str, str]) -> httpx.Response:
    async with client_of(create_app(FakeModels(pipeline))) as client:
        return await client.post("/v1/chat/completions", json=CHAT, headers=headers)


async def test_the_trace_of_a_client_goes_on_in_a_span_of_ours() -> None:
    pipeline = pipeline_of([b"1"])
    await post(pipeline, {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1", "x-request-id": "mine"})
    [context] = pipeline.contexts
    trace = context.trace
    assert (trace.trace_id, trace.parent_id, trace.is_sampled) == (TRACE, SPAN, True)
    assert trace.span_id != SPAN
    assert context.metadata == {"traceparent": f"00-{TRACE}-{trace.span_id}-01", "tracestate": "a=1"}


@pytest.mark.parametrize("headers", [{}, {"traceparent": "hostile"}, {"traceparent": f"00-{TRACE}-{'0' * 16}-01"}])
async def test_without_a_trace_that_is_one_a_new_one_begins(headers: dict[str, str]) -> None:
    pipeline = pipeline_of([b"1"])
    response = await post(pipeline, headers | {"tracestate": "a=1"})
    [context] = pipeline.contexts
    assert context.trace.trace_id == response.headers["x-request-id"] == context.request_id
    assert (context.trace.parent_id, context.trace.state) == (None, "")
    assert context.metadata["traceparent"] == context.trace.traceparent


async def test_every_choice_of_a_request_belongs_to_its_trace() -> None:
    choices: list[Context] = []

    async def answers(_: OpenAIRequest, context: Context) -> AsyncIterator[list[bytes]]:
        choices.extend(Context(f"{context.request_id}-{index}", context.metadata) for index in range(2))
        yield [b"1"]

    response = await post(FakePipeline(answers), {})
    assert [choice.trace.trace_id for choice in choices] == [response.headers["x-request-id"]] * 2


async def test_what_is_logged_while_a_request_is_answered_and_when_it_fails_belongs_to_it() -> None:
    seen: list[Context | None] = []

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(current_context.get())

    async def answers(_: OpenAIRequest, context: Context) -> AsyncIterator[list[bytes]]:
        seen.append(current_context.get())
        raise Disconnected("the worker is gone")
        yield []

    logger, handler = logging.getLogger("dynamo.frontend"), Seen()
    logger.addHandler(handler)
    try:
        pipeline = FakePipeline(answers)
        response = await post(pipeline, {"x-request-id": "mine"})
    finally:
        logger.removeHandler(handler)
    assert (response.status_code, seen) == (502, pipeline.contexts * 2)
    assert pipeline.contexts[0].is_over
    assert current_context.get() is None


def families_of(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]


async def test_the_metrics_of_the_process_are_on_the_port_of_the_frontend_too() -> None:
    world = World()
    async with world.runtime() as runtime, httpx.AsyncClient(timeout=DEADLINE_S) as client:
        server = FrontendServer(FrontendConfig(http_port=0, drain_s=0.0))
        url = await server.start(runtime)
        response = await client.get(f"{url}/metrics", headers={"accept": OPENMETRICS})
        await server.stop()
        after = runtime.exposition.prepare()(OPENMETRICS)[0].decode()
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.headers["cache-control"] == "no-store"
    families = families_of(response.text)
    assert {name for name in families if name.startswith("dynamo_frontend_")} == GOLDEN
    assert {"dynamo_transport_tcp_bytes_sent", "dynamo_component_discovery_degraded"} <= families.keys()
    assert not GOLDEN & families_of(after).keys()


async def test_an_application_without_a_runtime_has_no_metrics() -> None:
    async with client_of(create_app(FakeModels(None))) as client:
        assert (await client.get("/metrics")).status_code == 404


def test_migrations_are_counted_by_model_from_zero() -> None:
    stats = MigrationStats()
    stats.add_model(MODEL)
    stats.migrations[MODEL, MigrationType.ONGOING_REQUEST] += 2
    stats.poisoned[MODEL] += 1
    values = {
        (sample.name.removeprefix("dynamo_frontend_model_"), *sample.labels.values()): sample.value
        for family in MigrationCollector(stats).collect()
        for sample in family.samples
    }
    none: dict[tuple[str, ...], float] = {("contract_violations_total", MODEL, kind.value): 0 for kind in Violation}
    assert values == none | {
        ("migration_total", MODEL, "new_request"): 0,
        ("migration_total", MODEL, "ongoing_request"): 2,
        ("migration_limit_exceeded_total", MODEL): 0,
        ("migration_max_seq_len_exceeded_total", MODEL): 0,
        ("poisoned_requests_total", MODEL): 1,
    }


async def test_a_body_that_is_refused_leaves_nothing_behind() -> None:
    async with client_of(create_app(FakeModels(None))) as client:
        response = await client.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"x-request-id": "a b"})
    assert response.status_code == 400
    assert current_context.get() is None
