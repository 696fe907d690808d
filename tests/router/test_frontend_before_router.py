"""What a request says of where it is to go, through a frontend and then a router that is a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.llm.kv.scene import Host
from tests.llm.kv_router.cluster import BLOCK_SIZE, ENDPOINT, Cluster
from tests.router.scene import DEADLINE_S, Asker, routing, until_waiting

from dynamo._core.context import Context
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.llm import EngineOutput, ModelInput, ModelType, PreprocessedRequest, RouterConfigOverride, register_llm
from dynamo.llm._served_model import ServedModel
from dynamo.mocker import MockerConfig
from dynamo.mocker._starting import start_mocker

MODEL = "mock"
CONTEXT_LENGTH = 2048
#: Longer than what a worker of `held_worker` computes at once.
LONG = list(range(100, 150))


class Front:
    """A frontend, and how the router behind it explains what it did."""

    def __init__(self, http: httpx.AsyncClient, asker: Asker) -> None:
        self._http = http
        self._asker = asker
        self._num_asked = 0

    async def ask(
        self, prompt: list[int] | None = None, *, headers: dict[str, str] | None = None, **nvext: object
    ) -> httpx.Response:
        """Send a completion; without a prompt, one that nobody has seen before."""
        self._num_asked += 1
        prompt = prompt or [self._num_asked, *LONG]
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 2, "nvext": nvext}
        named = {"x-request-id": f"request-{self._num_asked}", **(headers or {})}
        return await self._http.post("/v1/completions", json=body, headers=named)

    async def decision(self, **asked: object) -> dict[str, object]:
        """Send a completion; return what the router says of it."""
        answer = (await self.ask(**asked)).raise_for_status()  # type: ignore[arg-type]
        request_id = answer.request.headers["x-request-id"]
        (decision,) = (await self._asker.fields("explain", {"request_id": request_id}))["decisions"]
        assert isinstance(decision, dict)
        return decision


@asynccontextmanager
async def frontend(host: Host, **settings: object) -> AsyncIterator[Front]:
    """A frontend that sees what is in the namespace of the router, and has its model."""
    async with host.process() as runtime, AsyncExitStack() as stack:
        config = FrontendConfig(http_port=0, drain_s=0.0, namespace="routed", **settings)  # type: ignore[arg-type]
        server = FrontendServer(config)
        url = await server.start(runtime)
        stack.push_async_callback(server.stop)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=DEADLINE_S))
        async with asyncio.timeout(DEADLINE_S):
            while MODEL not in (await http.get("/health")).json()["models"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield Front(http, Asker(runtime, "routed.router"))


@asynccontextmanager
async def mocker(host: Host, model: Path, taints: list[str]) -> AsyncIterator[int]:
    """A worker with a model card that frontends can read; its id."""
    config = MockerConfig(
        block_size=BLOCK_SIZE, num_gpu_blocks=1024, max_context_length=CONTEXT_LENGTH, speedup_ratio=0
    )
    async with host.process() as runtime, AsyncExitStack() as stack:
        endpoint = runtime.endpoint(ENDPOINT)
        engine = await start_mocker(model, config, context_length=CONTEXT_LENGTH, kv_event_sinks=[])

        async def generate(request: PreprocessedRequest, context: Context) -> AsyncIterator[EngineOutput]:
            async for output in engine.generate(request, context):
                yield output

        served = await endpoint.serve(generate, request_type=PreprocessedRequest, drain_s=0.0)
        stack.push_async_callback(served.close)
        registered = await ServedModel.start(engine, endpoint, model, MODEL, labels={"taints": taints})
        stack.push_async_callback(registered.close)
        yield served.instance_id


@asynccontextmanager
async def two_mockers(
    model: Path, mode: str = "round-robin", **options: object
) -> AsyncIterator[tuple[Front, int, int]]:
    """A frontend in this mode, a router with these options, and two workers: one has the taint gpu, the other none."""
    cluster = Cluster()
    async with (
        mocker(cluster, model, ["gpu"]) as one,
        mocker(cluster, model, []) as other,
        routing(cluster, namespace="routed", **options),
        frontend(cluster, router_mode=mode) as front,
    ):
        yield front, one, other


@pytest.mark.parametrize("mode", ["round-robin", "least-loaded", "kv"])
async def test_the_taints_that_a_request_requires_decide_behind_the_router(tiny_model: Path, mode: str) -> None:
    async with two_mockers(tiny_model, mode) as (front, tainted, _):
        for _ in range(3):
            decision = await front.decision(routing_constraints={"required_taints": ["gpu"]})
            assert decision["worker_id"] == tainted
        refused = await front.ask(routing_constraints={"required_taints": ["mars"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_worker_fits")
    assert "no worker has mars" in refused.json()["error"]["message"]


@pytest.mark.parametrize("mode", ["round-robin", "direct"])
async def test_a_request_may_name_a_worker_that_only_the_router_knows(tiny_model: Path, mode: str) -> None:
    async with two_mockers(tiny_model, mode) as (front, *ids):
        for id in ids * 2:
            assert (await front.decision(backend_instance_id=id))["worker_id"] == id
        refused = await front.ask(backend_instance_id=5)
        unnamed = await front.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_worker_fits")
    assert unnamed.status_code == (400 if mode == "direct" else 200)


async def test_a_session_stays_with_the_worker_that_the_router_gave_it(tiny_model: Path) -> None:
    async with two_mockers(tiny_model, router_session_affinity_ttl_secs=60.0) as (front, *ids):
        for session, id in zip("ab", ids, strict=True):
            headers = {"x-dynamo-session-id": session}
            await front.decision(headers=headers, backend_instance_id=id)
            for _ in range(3):
                assert (await front.decision(headers=headers))["worker_id"] == id


async def test_what_a_request_wants_of_the_routers_configuration_reaches_it(tiny_model: Path) -> None:
    async with two_mockers(tiny_model) as (front, *_):
        assert (await front.ask(router_config_override={"router_temperature": 0.5})).status_code == 200


class HeldWorker:
    """Takes requests, and answers none before it may."""

    def __init__(self) -> None:
        #: The first token of each prompt, in the order in which they came.
        self.came: list[int] = []
        self.may_answer = asyncio.Event()
        self.last: dict[str, Any] = {}

    async def generate(self, request: dict[str, Any]) -> AsyncIterator[object]:
        self.last = request
        self.came.append(request["token_ids"][0])
        await self.may_answer.wait()
        yield {"token_ids": [7], "finish_reason": "length"}


@asynccontextmanager
async def held_worker(host: Host, model: Path, endpoint: str, **facts: object) -> AsyncIterator[HeldWorker]:
    """A worker of the test's own, whose card has these facts."""
    worker = HeldWorker()
    async with host.process() as runtime:
        at = runtime.endpoint(endpoint)
        served = await at.serve(worker.generate, drain_s=0.0)
        await register_llm(
            ModelInput.Tokens, ModelType.Chat | ModelType.Completions, at, str(model), MODEL,
            context_length=CONTEXT_LENGTH, kv_cache_block_size=BLOCK_SIZE, runtime_config=facts,
        )  # fmt: skip
        try:
            yield worker
        finally:
            await served.close()


@pytest.mark.parametrize("header", ["x-dynamo-request-priority", "x-dynamo-request-strict-priority"])
async def test_of_those_that_wait_in_the_router_the_one_with_the_higher_priority_goes_first(
    tiny_model: Path, header: str
) -> None:
    cluster = Cluster()
    async with (
        held_worker(cluster, tiny_model, ENDPOINT, max_num_batched_tokens=16) as worker,
        routing(cluster, namespace="routed", router_queue_threshold=1.0) as router,
        frontend(cluster) as front,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(front.ask([1, *LONG]))
        async with asyncio.timeout(DEADLINE_S):
            while not worker.came:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        group.create_task(front.ask([2, *LONG]))
        await until_waiting(router, 1)
        group.create_task(front.ask([3, *LONG], headers={header: "1000"}))
        await until_waiting(router, 2)
        worker.may_answer.set()
    assert worker.came == [1, 3, 2]


async def test_a_router_is_told_all_that_a_request_says(tiny_model: Path) -> None:
    headers = {
        "x-dynamo-worker-instance-id": "5", "x-dynamo-dp-rank": "1", "x-dynamo-request-priority": "2",
        "x-dynamo-request-strict-priority": "3", "x-dynamo-meta-policy-class": "batch", "x-dynamo-session-id": "s",
    }  # fmt: skip
    constraints = {"required_taints": ["a"], "preferred_taints": {"b": 1.0}}
    override: dict[str, Any] = {"router_temperature": 0.5}
    cluster = Cluster()
    async with (
        held_worker(cluster, tiny_model, "routed.router.generate", routes_to="elsewhere") as router,
        frontend(cluster) as front,
    ):
        router.may_answer.set()
        await front.ask(headers=headers, routing_constraints=constraints, router_config_override=override)
        told = router.last
        await front.ask()
        untold = router.last
    assert told["routing"] == {
        "backend_instance_id": 5, "dp_rank": 1, "priority": 2.0, "strict_priority": 3, "policy_class": "batch",
        "session_id": "s", "routing_constraints": constraints,
    }  # fmt: skip
    assert RouterConfigOverride(**told["router_config_override"]) == RouterConfigOverride(**override)
    assert untold.keys().isdisjoint({"routing", "router_config_override"})


async def test_workers_are_told_nothing_of_what_a_frontend_heeds_itself(tiny_model: Path) -> None:
    cluster = Cluster()
    async with held_worker(cluster, tiny_model, "routed.worker.generate") as worker, frontend(cluster) as front:
        worker.may_answer.set()
        assert (await front.ask(headers={"x-dynamo-session-id": "s"}, dp_rank=0)).status_code == 200
        assert worker.last.keys().isdisjoint({"routing", "router_config_override"})
