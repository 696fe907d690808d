"""Where requests go: to the server that has their beginning, as far as it can be known, and to the least loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.frontend.route.fake_server import Exchange, fake_server, says
from tests.frontend.route.scene import CHAT, LONG, Routing, chat, eventually, routing
from tests.llm.kv.fake_vllm import fake_vllm, stored

from dynamo.frontend._route.router import PROMPT_BLOCKS_MAX
from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor


async def test_a_conversation_stays_where_it_began_without_any_tokenizer() -> None:
    async with (
        fake_server(says("one")) as one,
        fake_server(says("two")) as two,
        routing(one.url, two.url, router_mode="kv") as route,
    ):
        for number in range(4):
            turns = [{"role": "user", "content": f"{number} {LONG}"}]
            first = (await route.post({"model": "tiny", "messages": turns})).json()
            for _ in range(3):
                turns += [{"role": "assistant", "content": "well"}, {"role": "user", "content": "go on"}]
                assert (await route.post({"model": "tiny", "messages": turns})).json() == first
        assert len(one.seen) + len(two.seen) == 16
        assert await route.metric('dynamo_route_prompts_total{by="text"}') == 16
        assert await route.metric('dynamo_frontend_router_predicted_cached_tokens_total{model="all"}') > 0


async def test_one_long_prompt_takes_a_small_part_of_what_is_remembered() -> None:
    async with fake_server(says("one")) as one, routing(one.url, router_mode="kv", block_size=1) as route:
        prompt = [number % 100 for number in range(PROMPT_BLOCKS_MAX + 1000)]
        assert (await route.post({"prompt": prompt}, "/v1/completions")).json() == {"text": "one"}
        assert one.seen[0].fields == {"prompt": prompt}
        assert await route.metric('dynamo_frontend_router_sent_blocks{model="all"}') == PROMPT_BLOCKS_MAX


async def test_what_is_counted_keeps_its_name_whichever_models_come() -> None:
    async def two_models(exchange: Exchange) -> None:
        await exchange.json({"data": [{"id": "tiny"}, {"id": "adapter"}]})

    async with fake_server(says("one")) as one, routing(one.url, router_mode="kv") as route:
        await route.post(chat(LONG))
        one.models = two_models
        await eventually(lambda: "adapter" in route.server.backends.models())
        await route.post(chat(LONG))
        assert await route.metric('dynamo_frontend_router_decisions_total{model="all"}') == 2


@pytest.mark.parametrize("by_tokens", [False, True])
async def test_tenants_do_not_count_on_the_cache_of_others(tiny_model: Path, by_tokens: bool) -> None:
    settings: dict[str, Any] = {"model_path": str(tiny_model)} if by_tokens else {}
    async with fake_server(says("one")) as one, routing(one.url, router_mode="kv", **settings) as route:
        salts: tuple[dict[str, object], ...] = ({}, {"cache_salt": "a"}, {"cache_salt": "b"})
        for salt in salts:
            first, second = [
                (await route.post(chat(LONG, **salt), x_dynamo_explain="1")).json()["nvext"]["explain"]["decisions"][0]
                for _ in range(2)
            ]
            assert first["predicted_cached_tokens"] == 0
            assert second["predicted_cached_tokens"] > 0
        assert [seen.fields.get("cache_salt") for seen in one.seen] == [None, None, "a", "a", "b", "b"]


async def test_different_prompts_are_spread_by_load() -> None:
    held = asyncio.Event()

    async def answers(exchange: Exchange) -> None:
        await held.wait()
        await exchange.json({})

    async with (
        fake_server(answers) as one,
        fake_server(answers) as two,
        routing(one.url, two.url, router_mode="kv") as route,
    ):
        asking = [asyncio.create_task(route.post(chat(f"{number} {LONG}"))) for number in range(6)]
        async with asyncio.timeout(60):
            while len(one.seen) + len(two.seen) < 6:  # noqa: ASYNC110 - the servers tell nobody
                await asyncio.sleep(0.01)
        assert (len(one.seen), len(two.seen)) == (3, 3)
        held.set()
        await asyncio.gather(*asking)


@pytest.mark.parametrize("mode", ["random", "power-of-two", "least-loaded", "device-aware-weighted"])
async def test_every_mode_of_the_frontend_routes(mode: str) -> None:
    async with fake_server(says("ok")) as one, routing(one.url, router_mode=mode) as route:
        assert (await route.post(CHAT)).json() == {"text": "ok"}


async def test_a_request_may_name_its_server() -> None:
    async with (
        fake_server(says("one")) as one,
        fake_server(says("two")) as two,
        routing(one.url, two.url, router_mode="direct") as route,
    ):
        answers = [(await route.post(CHAT, x_dynamo_worker_instance_id="2")).json() for _ in range(2)]
        assert answers == [{"text": "two"}] * 2
        nobody = await route.post(CHAT, x_dynamo_worker_instance_id="3")
        assert nobody.status_code == 503
        assert "instance 3" in nobody.json()["error"]["message"]
        assert (await route.post(CHAT)).status_code == 400


async def test_a_session_stays_with_its_server() -> None:
    async with (
        fake_server(says("one")) as one,
        fake_server(says("two")) as two,
        routing(one.url, two.url, router_mode="random", router_session_affinity_ttl_secs=60) as route,
    ):
        texts = {(await route.post(CHAT, x_dynamo_session_id="a")).json()["text"] for _ in range(12)}
        assert len(texts) == 1


async def test_whoever_asks_is_told_why_in_a_stream_and_in_json() -> None:
    async def answers(exchange: Exchange) -> None:
        if exchange.seen.fields.get("stream"):
            await exchange.begin()
            await exchange.chunk(b"data: [DONE]\n\n")
            await exchange.end()
        else:
            await exchange.json({"id": "x"})

    async with (
        fake_server(answers) as one,
        fake_server(answers) as two,
        routing(one.url, two.url, router_mode="kv") as route,
    ):
        body = (await route.post(CHAT, x_dynamo_explain="1", x_request_id="why")).json()
        [decision] = body["nvext"]["explain"]["decisions"]
        assert {each["worker_id"] for each in decision["candidates"]} == {1, 2}
        assert body["id"] == "x"
        known = (await route.client.get("/v1/explain/why")).json()
        assert known["decisions"] == [decision]
        assert (await route.client.get("/v1/explain")).json()["decisions"][0]["decision"] == decision
        lines = (await route.post(CHAT | {"stream": True}, x_dynamo_explain="1")).text.splitlines()
        assert lines[0].startswith(': dynamo-explain {"decisions":[{')
        assert lines[2] == "data: [DONE]"


async def test_the_events_of_vllm_decide_with_the_block_size_that_they_tell(tiny_model: Path) -> None:
    preprocessor = await Preprocessor.load(ModelCard.from_local_path(tiny_model))
    tokens = (await preprocessor.chat([{"role": "user", "content": LONG}])).token_ids
    preprocessor.close()
    num_blocks = (len(tokens) - 1) // 32
    async with (
        fake_vllm() as engine,
        fake_server(says("one")) as one,
        fake_server(says("two")) as two,
        routing(
            one.url,
            two.url,
            router_mode="kv",
            model_path=str(tiny_model),
            backend_kv_events=f"none {engine.endpoint},{engine.replay_endpoint}",
        ) as route,
    ):
        await engine.subscribed()
        await engine.publish(stored(tokens[: num_blocks * 32], 32))
        async with asyncio.timeout(60):
            while (await _kv_blocks(route, 2)) != num_blocks:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        for _ in range(3):
            answer = await route.post(chat(LONG), x_dynamo_explain="1")
            [decision] = answer.json()["nvext"]["explain"]["decisions"]
            assert answer.json()["text"] == "two"
            assert decision["block_size"] == 32
            assert decision["predicted_cached_tokens"] == num_blocks * 32
        assert await route.metric('dynamo_route_prompts_total{by="tokens"}') == 3
        assert await route.metric(f'dynamo_route_kv_blocks{{backend="{two.url}"}}') == num_blocks


async def test_a_server_whose_events_were_never_heard_is_known_by_what_was_sent_there(tiny_model: Path) -> None:
    async with fake_vllm() as engine, fake_server(says("one")) as one, fake_server(says("two")) as two:
        events = f"{engine.endpoint} {engine.endpoint}"
        async with routing(
            one.url, two.url, router_mode="kv", model_path=str(tiny_model), backend_kv_events=events
        ) as route:
            answers = [(await route.post(chat(LONG))).json()["text"] for _ in range(4)]
            assert len(set(answers)) == 1
            assert await _kv_blocks(route, 1) is None


async def _kv_blocks(route: Routing, backend_id: int) -> object:
    shown = (await route.health())["backends"]
    assert isinstance(shown, list)
    return next(each for each in shown if each["id"] == backend_id)["kv_blocks"]
