"""The KV router in the frontend: requests go where their prompt is cached, and say why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from tests.frontend.mocked import BLOCK_SIZE, DEADLINE_S, MODEL, Mocked, decision_in, mocked

EXPLAIN = {"x-dynamo-explain": "1"}
PROMPT = list(range(100, 100 + 4 * BLOCK_SIZE + 3))
CACHED = 4 * BLOCK_SIZE


async def metric(scene: Mocked, name: str, **labels: str) -> float:
    wanted = {f'{key}="{value}"' for key, value in ({"model": MODEL} | labels).items()}
    for line in (await scene.http.get("/metrics")).text.splitlines():
        if line.startswith(f"{name}{{") and all(label in line for label in wanted):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"there is no {name} with {wanted}")


async def test_a_prompt_goes_where_it_is_cached_and_what_is_predicted_is_what_the_engine_reports(
    tiny_model: Path,
) -> None:
    async with mocked(tiny_model, router_mode="kv") as scene:
        first = decision_in(await scene.ask(PROMPT, headers=EXPLAIN))
        await scene.until_cached(PROMPT, CACHED)
        for _ in range(5):
            answer = await scene.ask([*PROMPT, 7], headers=EXPLAIN)
            decision = decision_in(answer)
            assert decision["worker_id"] == first["worker_id"]
            usage = answer.json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == decision["predicted_cached_tokens"] == CACHED


async def test_without_events_the_router_knows_what_it_sent_where(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv", router_use_kv_events=False) as scene:
        first = decision_in(await scene.ask(PROMPT, headers=EXPLAIN))
        second = decision_in(await scene.ask(PROMPT, headers=EXPLAIN))
        assert (second["worker_id"], second["predicted_cached_tokens"]) == (first["worker_id"], CACHED)


async def test_metrics_count_blocks_that_were_expected_to_be_cached(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv", router_use_kv_events=False) as scene:
        for _ in range(3):
            await scene.ask(PROMPT)
        prefix = "dynamo_frontend_router_"
        assert await metric(scene, prefix + "decisions_total") == 3
        assert await metric(scene, prefix + "prompt_blocks_total") == 12
        assert await metric(scene, prefix + "predicted_cached_blocks_total") == 8
        assert await metric(scene, prefix + "predicted_cached_tokens_total") == 2 * CACHED
        assert await metric(scene, prefix + "repeated_prompts_total") == 2
        assert await metric(scene, prefix + "repeated_prompts_without_hit_total") == 0
        assert await metric(scene, "dynamo_router_overhead_total_ms_count") == 3
        assert await metric(scene, "dynamo_router_overhead_hashing_ms_bucket", le="+Inf") == 3


async def test_metrics_count_what_workers_say_they_had_cached(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv") as scene:
        await scene.until_cached(PROMPT, CACHED)
        prefix = "dynamo_frontend_router_"
        before = await metric(scene, prefix + "reported_cached_tokens_total")
        await scene.ask(PROMPT, stream=True)
        assert await metric(scene, prefix + "reported_cached_tokens_total") == before + CACHED
        assert await metric(scene, prefix + "expected_hits_total") == 2
        assert await metric(scene, prefix + "expected_hits_missed_total") == 0


async def test_hits_that_are_expected_of_workers_without_a_cache_count_as_missed(tiny_model: Path) -> None:
    async with mocked(tiny_model, prefix_caching=False, router_mode="kv", router_use_kv_events=False) as scene:
        for _ in range(3):
            await scene.ask(PROMPT)
        prefix = "dynamo_frontend_router_"
        assert await metric(scene, prefix + "predicted_cached_tokens_total") == 2 * CACHED
        assert await metric(scene, prefix + "reported_cached_tokens_total") == 0
        assert await metric(scene, prefix + "expected_hits_total") == 2
        assert await metric(scene, prefix + "expected_hits_missed_total") == 2


async def test_a_stream_says_why_in_a_comment_that_clients_do_not_see(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv") as scene:
        answer = await scene.ask(PROMPT, headers=EXPLAIN, stream=True)
        first, _, rest = answer.text.partition("\n\n")
        assert first.startswith(': dynamo-explain {"decisions":[{"request_id":')
        assert "dynamo-explain" not in rest
        assert answer.text.endswith("data: [DONE]\n\n")
        plain = await scene.ask(PROMPT, stream=True)
        assert not plain.text.startswith(":")


async def test_the_openai_client_reads_explained_answers_like_any_other(tiny_model: Path) -> None:
    async with (
        mocked(tiny_model, router_mode="kv") as scene,
        openai.AsyncOpenAI(
            api_key="none", base_url=f"{scene.url}/v1", max_retries=0, timeout=DEADLINE_S, default_headers=EXPLAIN
        ) as client,
    ):
        whole = await client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=5, temperature=0)
        stream = await client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=5, temperature=0, stream=True)
        chunks = [chunk async for chunk in stream]
        extra = await client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=5, extra_body={"nvext": {"explain": True}}
        )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    for answer in (whole, extra):
        assert answer.model_extra is not None
        assert len(answer.model_extra["nvext"]["explain"]["decisions"][0]["candidates"]) == 2


async def test_each_choice_is_explained(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="least-loaded") as scene:
        answer = await scene.ask(PROMPT, headers=EXPLAIN | {"x-request-id": "both"}, n=2)
        decisions = answer.json()["nvext"]["explain"]["decisions"]
        assert {decision["request_id"] for decision in decisions} == {"both-0", "both-1"}
        assert sorted(decision["worker_id"] for decision in decisions) == scene.instance_ids
        asked = (await scene.http.get("/v1/explain/both")).json()
        assert (asked["model"], len(asked["decisions"])) == (MODEL, 2)


@pytest.mark.parametrize("mode", ["random", "power-of-two", "least-loaded", "device-aware-weighted", "kv"])
async def test_the_last_decisions_can_be_asked_for_in_every_mode(tiny_model: Path, mode: str) -> None:
    async with mocked(tiny_model, router_mode=mode) as scene:
        for number in range(3):
            await scene.ask(PROMPT, headers={"x-request-id": f"request-{number}"})
        one = (await scene.http.get("/v1/explain/request-1")).json()
        assert (one["request_id"], one["model"], len(one["decisions"])) == ("request-1", MODEL, 1)
        recent = (await scene.http.get("/v1/explain", params={"limit": 2})).json()
        assert [entry["decision"]["request_id"] for entry in recent["decisions"]] == ["request-2", "request-1"]
        assert recent["warnings"] == []


async def test_what_cannot_be_explained_is_said(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1) as scene:
        missing = await scene.http.get("/v1/explain/nothing")
        assert missing.status_code == 404
        assert "no decision is known on a request 'nothing'" in missing.json()["error"]["message"]
        for limit in ("0", "101", "x", "-1", "000000001999", "1" * 5000):
            wrong = await scene.http.get("/v1/explain", params={"limit": limit})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "limit")


async def test_round_robin_explains_a_request_that_asks(tiny_model: Path) -> None:
    async with mocked(tiny_model) as scene:
        decision = decision_in(await scene.ask(PROMPT, headers=EXPLAIN))
        assert decision["mode"] == "round-robin"
        assert decision["worker_id"] in scene.instance_ids


async def test_a_request_can_name_its_worker_in_a_header_or_in_the_body(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="direct") as scene:
        for id in scene.instance_ids:
            for header in ("x-dynamo-worker-instance-id", "x-dynamo-instance-id"):
                named = await scene.ask(PROMPT, headers=EXPLAIN | {header: str(id)})
                assert decision_in(named)["worker_id"] == id
            in_body = await scene.ask(PROMPT, headers=EXPLAIN, nvext={"backend_instance_id": id})
            assert decision_in(in_body)["worker_id"] == id
        refused = await scene.ask(PROMPT)
        assert refused.status_code == 400
        assert "each request must name its worker" in refused.json()["error"]["message"]
        unknown = await scene.ask(PROMPT, nvext={"backend_instance_id": 1})
        assert unknown.status_code == 503
        assert unknown.json()["error"]["code"] == "no_worker_fits"
        assert "none of the 2 workers that could take the request is instance 1" in unknown.json()["error"]["message"]


async def test_a_session_stays_with_its_worker(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=3, router_mode="random", router_session_affinity_ttl_secs=60.0) as scene:
        headers = EXPLAIN | {"x-dynamo-session-id": "mine"}
        answers = await asyncio.gather(*(scene.ask([number], headers=headers) for number in range(10)))
        assert len({decision_in(answer)["worker_id"] for answer in answers}) == 1


async def test_a_request_can_weigh_otherwise_than_the_router(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv", router_use_kv_events=False) as scene:
        await scene.ask(PROMPT)
        ignoring = {"router_config_override": {"overlap_score_credit": 0, "router_temperature": 0}}
        decision = decision_in(await scene.ask(PROMPT, headers=EXPLAIN, nvext=ignoring))
        costs = {candidate["cost"] for candidate in decision["candidates"]}  # type: ignore[attr-defined]
        assert len(costs) == 1


async def test_a_class_that_the_router_does_not_have_is_refused(tiny_model: Path) -> None:
    async with mocked(
        tiny_model, router_mode="kv", router_queue_threshold=1.0, router_policy_classes='[{"name": "batch"}]'
    ) as scene:
        batch = await scene.ask(
            PROMPT, headers={"x-dynamo-meta-policy-class": "batch", "x-dynamo-request-priority": "5"}
        )
        assert batch.status_code == 200
