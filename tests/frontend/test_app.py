"""The routes, their errors, and what they never answer with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.frontend.scene import CHAT, DEADLINE_S, MODEL, FakeModels, FakePipeline, client_of, pipeline_of

from dynamo._core import errors
from dynamo._core.context import Context
from dynamo._core.discovery import DiscoveryStatus
from dynamo._core.errors import (
    CannotConnect,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    HandlerError,
    InvalidArgument,
    NoInstances,
    NoWorkerFits,
    Overloaded,
)
from dynamo.frontend._app import create_app
from dynamo.llm._openai import OpenAIRequest
from dynamo.llm._poison import PoisonedRequest
from dynamo.runtime._http_status import STATUS

EVERY_ERROR = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DynamoError)]
EVERY_ERROR.append(PoisonedRequest)
BODY = json.dumps(CHAT)
JSON = {"content-type": "application/json"}


async def post(
    pipeline: FakePipeline | None, content: str | bytes = BODY, *, headers: dict[str, str] = JSON, **options: Any
) -> httpx.Response:
    async with client_of(create_app(FakeModels(pipeline), **options)) as client:
        return await client.post("/v1/chat/completions", content=content, headers=headers)


async def get(path: str, pipeline: FakePipeline | None = None, method: str = "GET") -> httpx.Response:
    async with client_of(create_app(FakeModels(pipeline))) as client:
        return await client.request(method, path)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object, which has the fields that clients of OpenAI expect."""
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_an_answer_is_json_with_the_requests_id() -> None:
    response = await post(pipeline_of([b"1", b"2"], [b"3"]), headers=JSON | {"x-request-id": "abc-1"})
    assert (response.status_code, response.json()) == (200, [1, 2, 3])
    assert response.headers["x-request-id"] == "abc-1"
    assert response.headers["content-type"] == "application/json"


async def test_the_requests_id_and_deadline_travel_with_the_request() -> None:
    pipeline = pipeline_of([b"1"])
    await post(pipeline, headers=JSON | {"x-request-id": "abc-1"}, request_timeout_s=100)
    [context] = pipeline.contexts
    assert context.request_id == "abc-1"
    assert context.deadline is not None
    assert context.deadline > asyncio.get_running_loop().time() + 50


@pytest.mark.parametrize("given_id", ["a b", "x" * 129, "a/b", ""])
async def test_a_request_id_that_is_none_is_refused(given_id: str) -> None:
    response = await post(pipeline_of([b"1"]), headers=JSON | {"x-request-id": given_id})
    assert (response.status_code, error_of(response)["param"]) == (400, "x-request-id")


async def test_two_requests_at_a_time_never_have_the_same_id() -> None:
    both = asyncio.Barrier(2)

    async def answers(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
        await both.wait()
        yield [b"1"]

    pipeline = FakePipeline(answers)
    app = create_app(FakeModels(pipeline))
    headers = JSON | {"x-request-id": "same"}
    async with client_of(app) as client, asyncio.timeout(DEADLINE_S):
        post = [client.post("/v1/chat/completions", content=BODY, headers=headers) for _ in range(2)]
        responses = await asyncio.gather(*post)
    ids = {response.headers["x-request-id"] for response in responses}
    assert len(ids) == 2
    assert ids == {context.request_id for context in pipeline.contexts}
    assert all(id.startswith("same") for id in ids)


async def test_a_stream_is_events_and_done() -> None:
    response = await post(pipeline_of([b"1", b"2"], [b"3"]), json.dumps(CHAT | {"stream": True}))
    assert response.text == "data: 1\n\ndata: 2\n\ndata: 3\n\ndata: [DONE]\n\n"
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_an_error_after_the_first_chunk_is_the_last_event_and_nothing_is_done() -> None:
    pipeline = pipeline_of([b"1"], error=Disconnected("the worker is gone"))
    response = await post(pipeline, json.dumps(CHAT | {"stream": True}))
    first, last = response.text.removesuffix("\n\n").split("\n\n")
    assert (response.status_code, first) == (200, "data: 1")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "disconnected"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidArgument("no", param="messages"), 400, "invalid_argument"),
        (NoInstances("no"), 503, "no_instances"),
        (CannotConnect("no"), 503, "cannot_connect"),
        (Overloaded("no"), 503, "overloaded"),
        (EngineShutdown("no"), 503, "engine_shutdown"),
        (Disconnected("no"), 502, "disconnected"),
        (DeadlineExceeded("no"), 504, "deadline_exceeded"),
        (HandlerError("no", type_name="ValueError"), 500, "handler_error"),
    ],
)
async def test_an_error_before_the_first_chunk_is_a_status(
    error: DynamoError, status: int, code: str, stream: bool
) -> None:
    response = await post(pipeline_of(error=error), json.dumps(CHAT | {"stream": stream}))
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert ("retry-after" in response.headers) == (status == 503)
    assert error_of(response)["param"] == error.details.get("param")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", EVERY_ERROR)
async def test_what_goes_wrong_inside_is_for_the_log_and_its_client_gets_the_code_and_the_id(
    kind: type[DynamoError], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inside = "instance 5f at tcp://10.0.0.7:4242 asks for DYN_CLUSTER_TOKEN"
    pipeline = pipeline_of([b"1"] if stream else [], error=kind(inside))
    response = await post(pipeline, json.dumps(CHAT | {"stream": stream}), headers=JSON | {"x-request-id": "abc-1"})
    if STATUS.get(kind.code, 500) < 500 or kind is NoWorkerFits:  # which is about what the request itself says
        assert inside in response.text
        return
    error = json.loads(response.text.removesuffix("\n\n").rpartition("data: ")[2])["error"]
    assert error["code"] == kind.code
    assert error["message"].endswith("(request abc-1)")
    assert not any(word in response.text for word in ("5f", "10.0.0.7", "DYN_CLUSTER_TOKEN"))
    assert inside in caplog.text


async def test_a_fault_of_the_frontend_is_answered_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    response = await post(pipeline_of(error=RuntimeError("secret")))
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "secret" in caplog.text


async def test_an_unknown_model_is_not_found() -> None:
    response = await post(pipeline_of(), json.dumps(CHAT | {"model": "other"}))
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert error_of(response)["param"] == "model"


async def test_a_request_that_takes_too_long_times_out() -> None:
    async def answers(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
        await asyncio.Event().wait()
        yield []

    pipeline = FakePipeline(answers)
    response = await post(pipeline, request_timeout_s=0.01)
    assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
    assert pipeline.closed.is_set()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/jsonx"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        (JSON | {"content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "Application/JSON"}, 200),
    ],
)
async def test_only_plain_json_is_taken(headers: dict[str, str], status: int) -> None:
    assert (await post(pipeline_of([b"1"]), headers=headers)).status_code == status


async def test_a_body_over_the_limit_is_refused_whether_or_not_its_length_is_declared() -> None:
    body = json.dumps(CHAT | {"user": "x" * 1000})
    declared = await post(pipeline_of([b"1"]), body, body_size_bytes_max=1000)

    async def parts() -> AsyncIterator[bytes]:
        yield body[:500].encode()
        yield body[500:].encode()

    app = create_app(FakeModels(pipeline_of([b"1"])), body_size_bytes_max=1000)
    async with client_of(app) as client:
        undeclared = await client.post("/v1/chat/completions", content=parts(), headers=JSON)
    for response in (declared, undeclared):
        assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
    ],
)
async def test_a_wrong_route_or_method_is_an_error_object(method: str, path: str, status: int, code: str) -> None:
    response = await get(path, pipeline_of(), method)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert ("allow" in response.headers) == (status == 405)


async def test_models_are_listed_and_shown() -> None:
    model = {"id": MODEL, "object": "model", "created": 1, "owned_by": "dynamo"}
    assert (await get("/v1/models", pipeline_of())).json() == {"object": "list", "data": [model]}
    assert (await get(f"/v1/models/{MODEL}", pipeline_of())).json() == model
    assert (await get("/v1/models")).json()["data"] == []


async def test_health_means_that_a_model_can_be_asked() -> None:
    ready, unready = await get("/health", pipeline_of()), await get("/health")
    assert (ready.status_code, ready.json()["status"]) == (200, "healthy")
    assert ready.json()["instances"] == {MODEL: ["test/worker/generate/1"]}
    assert (unready.status_code, unready.json()["models"]) == (503, [])
    assert (await get("/live")).status_code == 200


async def test_health_names_the_instances_that_are_passed_over() -> None:
    instance = "test/worker/generate/1"
    async with client_of(create_app(FakeModels(pipeline_of(), passed_over=[instance]))) as client:
        health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert health.json()["passed_over"] == [instance]
    assert "passed_over" not in (await get("/health", pipeline_of())).json()


async def test_a_server_that_lost_discovery_serves_on_and_says_so() -> None:
    discovery = DiscoveryStatus()
    discovery.note_trouble("watch", "etcd is away")
    async with client_of(create_app(FakeModels(pipeline_of()), discovery=discovery)) as client:
        health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["degraded"]["reason"] == "etcd is away"


async def test_a_server_that_drains_is_unready_and_refuses_requests_but_lives() -> None:
    app = create_app(FakeModels(pipeline_of([b"1"])))
    await app.active.drain(0.0)
    async with client_of(app) as client:
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert (await client.get("/live")).status_code == 200
        refused = await client.post("/v1/chat/completions", content=BODY, headers=JSON)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_shutdown")
        assert "retry-after" in refused.headers


async def test_what_runs_when_the_server_stops_may_finish_or_is_told() -> None:
    go = asyncio.Event()

    async def answers(request: OpenAIRequest, _: Context) -> AsyncIterator[list[bytes]]:
        yield [b"1"]
        await go.wait()
        if request.user == "stuck":
            await asyncio.Event().wait()

    pipeline = FakePipeline(answers)
    app = create_app(FakeModels(pipeline))
    async with client_of(app) as client, asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        bodies = [json.dumps(CHAT | {"stream": True, "user": user}) for user in ("quick", "stuck")]
        quick, stuck = (
            tasks.create_task(client.post("/v1/chat/completions", content=body, headers=JSON)) for body in bodies
        )
        while len(app.active) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        go.set()
        await app.active.drain(0.2)
    assert (await quick).text.endswith("data: [DONE]\n\n")
    assert (await stuck).text.startswith("data: 1\n\n")
    assert '"code":"engine_shutdown"' in (await stuck).text


@settings(deadline=None)
@given(
    st.binary(max_size=100)
    | st.builds(
        lambda field, value: json.dumps(CHAT | {field: value}).encode(),
        st.sampled_from(["model", "messages", "stop", "n", "stream", "stream_options", "logprobs", "x", "max_tokens"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_no_body_is_answered_with_a_server_error(body: bytes) -> None:
    response = asyncio.run(post(pipeline_of([b"1"]), body))
    assert response.status_code < 500
    if response.status_code != 200:
        assert error_of(response)["message"]
