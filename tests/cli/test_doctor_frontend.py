"""`dynamo doctor` on frontends and their routers, and what the counts of a router mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.cli.doctoring import doctor, lines_of, only
from tests.cli.other_servers import answering
from tests.frontend.mocked import BLOCK_SIZE, DEADLINE_S, Mocked, mocked
from tests.frontend.route.fake_server import fake_server, says
from tests.frontend.route.scene import routing

from dynamo.cli._doctor_router import judge, read_counts
from dynamo.llm._zero_hits import REPEATS_MIN

PROMPT = list(range(100, 100 + 4 * BLOCK_SIZE + 3))


async def ask(scene: Mocked, times: int) -> None:
    for _ in range(times):
        assert (await scene.ask(PROMPT)).status_code == 200


async def test_a_router_that_helps_is_well(tmp_path: Path, tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv") as scene:
        await scene.until_cached(PROMPT, 4 * BLOCK_SIZE)
        result = await doctor(tmp_path, *only("frontend"), "--url", scene.url)
    assert result.exit_code == 0
    assert f"{scene.url} is healthy, and serves mock" in result.stdout
    assert "; blocks that are known to be cached: 4" in result.stdout


async def test_workers_that_publish_nothing_make_the_kv_router_blind(tmp_path: Path, tiny_model: Path) -> None:
    async with mocked(tiny_model, kv_events=False, router_mode="kv") as scene:
        await ask(scene, REPEATS_MIN + 1)
        result = await doctor(tmp_path, *only("frontend"), "--url", scene.url)
    assert result.exit_code == 1
    no_publisher, no_hits = lines_of(result, "warn")
    assert "it learns from KV events what is cached, and no worker publishes any" in no_publisher
    assert "without --no-kv-events" in no_publisher
    assert (
        f"the KV router finds nothing for the model 'mock': since it started, {REPEATS_MIN} prompts began as earlier"
        in no_hits
    )
    assert "set --no-router-use-kv-events" in no_hits


async def test_a_frontend_that_routes_otherwise_has_no_router_to_look_at(tmp_path: Path, tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1) as scene:
        result = await doctor(tmp_path, *only("frontend"), DYN_FRONTEND_URL=scene.url)
    assert result.exit_code == 0
    assert "does not route by KV cache, for mock" in result.stdout


async def test_a_frontend_without_a_model_fails(tmp_path: Path, tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=0) as scene:
        result = await doctor(tmp_path, *only("frontend"), "--url", scene.url)
    [line] = lines_of(result, "fail")
    assert "answers, and has no model" in line
    assert "another namespace (--namespace)" in line
    assert "the `python -m dynamo.router` before the workers may be gone" in line


async def test_without_a_model_nothing_is_said_of_how_a_frontend_routes(tmp_path: Path, tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=0, router_mode="kv") as scene:
        result = await doctor(tmp_path, *only("frontend"), "--url", scene.url)
    [line] = lines_of(result, "ok")
    assert line.split()[0] == "router"
    assert f"{scene.url} has no model to route for" in line


async def test_a_frontend_that_is_not_there_fails_and_the_others_are_looked_at(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with mocked(tiny_model, workers=1) as scene:
        result = await doctor(tmp_path, *only("frontend"), "--url", "http://127.0.0.1:1", "--url", scene.url)
    [line] = lines_of(result, "fail")
    assert "no frontend answers at http://127.0.0.1:1" in line
    assert "is healthy, and serves mock" in result.stdout


async def test_no_proxy_is_asked_for_what_is_on_this_machine(tmp_path: Path, tiny_model: Path) -> None:
    with answering(b"{}") as port:
        proxy = {"http_proxy": f"http://127.0.0.1:{port}", "no_proxy": ""}
        async with mocked(tiny_model, workers=1) as scene:
            near = await doctor(tmp_path, *only("frontend"), "--url", scene.url, **proxy)
        far = await doctor(tmp_path, *only("frontend"), "--url", "http://no-such-host.invalid:8000", **proxy)
    assert near.exit_code == 0
    assert "http://no-such-host.invalid:8000/health answers 200, and not as a frontend does" in far.stdout


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'"healthy"', b"\xff", b'{"status": 1, "models": []}'])
async def test_what_is_no_frontend_is_known(tmp_path: Path, body: bytes) -> None:
    with answering(body) as port:
        result = await doctor(tmp_path, *only("frontend"), "--url", f"http://127.0.0.1:{port}")
    [line] = lines_of(result, "fail")
    assert "answers 200, and not as a frontend does" in line


async def test_a_route_whose_backend_is_away_says_which(tmp_path: Path) -> None:
    async with fake_server(says("one")) as one, routing(one.url, "http://127.0.0.1:1", router_mode="kv") as route:
        url = str(route.client.base_url).rstrip("/")
        async with asyncio.timeout(DEADLINE_S):
            while (await route.health())["status"] != "degraded":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        result = await doctor(tmp_path, *only("frontend"), "--url", url)
    assert result.exit_code == 1
    [line] = lines_of(result, "warn")
    assert "backend http://127.0.0.1:1: " in line


# What a router's counts mean.

WELL = {"decisions_total": 20, "prompt_blocks_total": 80, "predicted_cached_blocks_total": 40, "sent_blocks": 8}
BY_EVENTS = WELL | {"index_following": 1, "index_publishers": 2, "index_refused_publishers": 0, "index_blocks": 8}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (WELL, ["ok: requests: 20, hit rate 50%; blocks that were sent and are taken for cached: 8"]),
        ({"decisions_total": 0}, ["ok: no requests yet"]),
        ({"decisions_total": 3, "prompt_blocks_total": 0}, ["ok: requests: 3, no full blocks"]),
        (BY_EVENTS, ["ok: requests: 20, hit rate 50%; blocks that are known to be cached: 8"]),
        (BY_EVENTS | {"index_following": 0}, ["fail: the frontend does not hear KV events"]),
        (
            BY_EVENTS | {"index_refused_publishers": 1},
            ["fail: workers whose events are refused for their block size: 1"],
        ),
        (BY_EVENTS | {"index_blocks": 0}, ["warn: the index is empty, and workers publish KV events: 2"]),
        (BY_EVENTS | {"index_blocks": 0, "index_publishers": 0}, ["warn: it learns from KV events what is cached"]),
        (BY_EVENTS | {"index_blocks": 0, "prompt_blocks_total": 0}, ["ok: requests: 20"]),
        (
            WELL | {"repeated_prompts_total": 10, "repeated_prompts_without_hit_total": 10},
            ["warn: the KV router finds"],
        ),
        (WELL | {"repeated_prompts_total": 10, "repeated_prompts_without_hit_total": 9}, ["ok: requests: 20"]),
        (WELL | {"expected_hits_total": 10, "expected_hits_missed_total": 10}, ["warn: the KV router expects what"]),
        (WELL | {"expected_hits_total": 10, "expected_hits_missed_total": 9}, ["ok: requests: 20"]),
    ],
)
def test_what_the_counts_of_a_router_mean(counts: dict[str, float], expected: Sequence[str]) -> None:
    found = [f"{finding.level}: {finding.what}" for finding in judge("m", counts)]
    assert len(found) == len(expected)
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True))


def test_the_frontends_own_warning_is_for_its_model_only() -> None:
    warnings = ["the KV router finds nothing for the model 'm': 12 prompts began. Do the workers?"]
    assert [finding.remedy for finding in judge("m", WELL, warnings)] == ["Do the workers?"]
    assert [finding.level for finding in judge("other", WELL, warnings)] == ["ok"]


@pytest.mark.parametrize(
    "text", ["", "garbage {", 'x{model="m"} 1', "dynamo_frontend_router_decisions_total nan nan nan"]
)
def test_metrics_of_something_else_are_none(text: str) -> None:
    assert read_counts(text) == {}
