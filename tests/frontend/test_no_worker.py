"""A request that no worker takes is told why: each reason has words of its own, and what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from tests.frontend.scene import client_of
from tests.llm.mortal import PROMPT, cluster_of, losing_all, within
from tests.llm.scene import MODEL, ScriptedEngine, World, never, until
from tests.oracle import OracleEngine

from dynamo._core.address import EndpointId
from dynamo._core.errors import NoInstances
from dynamo.frontend._app import create_app
from dynamo.llm._kv_router.config import RouterConfig, RouterMode
from dynamo.llm._model_card import ModelCard
from dynamo.llm._models import ModelManager

MODES = [RouterConfig(), RouterConfig(RouterMode.LeastLoaded), RouterConfig(RouterMode.KV)]
BODY: dict[str, object] = {"model": MODEL, "prompt": PROMPT, "max_tokens": 2}


async def ask(models: ModelManager, **fields: object) -> httpx.Response:
    async with client_of(create_app(models)) as client:
        return await client.post("/v1/completions", json=BODY | fields, headers={"x-request-id": "mine"})


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    """The status, the code and the words of an answer; a client that may try again is told when."""
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


async def test_a_model_that_nobody_has_served_is_not_found_and_the_others_are_named(tiny_model: Path) -> None:
    async with cluster_of(tiny_model, [OracleEngine()]) as (_, models):
        assert refusal(await ask(models, model="moon")) == (
            404, "model_not_found", "the model 'moon' does not exist; served now: 'tiny'",
        )  # fmt: skip


@pytest.mark.parametrize("router", MODES, ids=lambda router: router.mode.value)
async def test_a_model_whose_workers_are_gone_is_said_to_have_none_now(tiny_model: Path, router: RouterConfig) -> None:
    async with cluster_of(tiny_model, [OracleEngine()], router=router) as (cluster, models):
        await cluster.leave(cluster.workers[0])
        await until(lambda: models.names() == [])
        said = "no worker serves the model right now: try again in a moment (request mine)"
        assert refusal(await ask(models)) == (503, "no_instances", said)


async def test_a_model_that_is_being_loaded_is_said_to_be(tiny_model: Path) -> None:
    world = World()
    card = ModelCard.from_local_path(tiny_model, name=MODEL)
    key = EndpointId("test", "worker", "generate").model_card_key(1)
    async with world.runtime() as runtime, ModelManager(runtime) as models:
        await world.discovery.put(key, card.to_json())

        def is_loading() -> bool:
            try:
                models.pipeline(MODEL)
            except NoInstances:
                return True
            except Exception:
                return False
            return False

        await until(is_loading)
        said = "the model is being loaded: try again in a moment (request mine)"
        assert refusal(await ask(models)) == (503, "model_loading", said)


@pytest.mark.parametrize("router", MODES, ids=lambda router: router.mode.value)
async def test_wishes_that_nobody_meets_are_named(tiny_model: Path, router: RouterConfig) -> None:
    async with cluster_of(tiny_model, [OracleEngine(), OracleEngine()], router=router) as (_, models):
        for nvext, said in (
            (
                {"routing_constraints": {"required_taints": ["mars"]}},
                "none of the 2 workers that could take the request has all the taints that the request requires, mars: "
                "no worker has mars; the taints that there are: none",
            ),
            (
                {"backend_instance_id": 0x7A},
                "none of the 2 workers that could take the request is instance 7a, which it names",
            ),
            (
                {"dp_rank": 7},
                "none of the 2 workers that could take the request has the data parallel rank 7, which the request "
                "names",
            ),
        ):
            assert refusal(await ask(models, nvext=nvext)) == (503, "no_worker_fits", said)


@pytest.mark.parametrize("router", MODES, ids=lambda router: router.mode.value)
async def test_a_request_that_every_worker_has_lost_is_told_so(tiny_model: Path, router: RouterConfig) -> None:
    (mortal,), clusters = losing_all(1, 0)
    async with cluster_of(tiny_model, [mortal], router=router) as (cluster, models):
        clusters.append(cluster)
        said = "every worker that serves the model was lost while it had this request: try again in a moment"
        assert refusal(await ask(models)) == (503, "no_worker_left", f"{said} (request mine)")


async def test_where_all_workers_are_busy_that_is_said(tiny_model: Path) -> None:
    engines = [ScriptedEngine(never), ScriptedEngine(never)]
    router = RouterConfig(RouterMode.KV, active_prefill_tokens_threshold=0)
    async with cluster_of(tiny_model, engines, router=router) as (_, models):
        asking = [asyncio.create_task(ask(models)) for _ in engines]
        await within(lambda: all(engine.requests for engine in engines))
        said = "all workers that could take the request are busy: try again later (request mine)"
        assert refusal(await ask(models)) == (503, "all_workers_busy", said)
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
