"""Tenants with salts of their own and the KV router: nothing is shared, and what is predicted is what is reported."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.frontend.mocked import BLOCK_SIZE, DEADLINE_S, MODEL, Mocked, decision_in, mocked

EXPLAIN = {"x-dynamo-explain": "1"}
PROMPT = list(range(100, 100 + 4 * BLOCK_SIZE + 3))
CACHED = 4 * BLOCK_SIZE
SALTS: tuple[dict[str, Any], ...] = ({}, {"cache_salt": "a"}, {"cache_salt": "b"})


def tokens_in(answer: httpx.Response) -> tuple[int, int]:
    """How many cached tokens were predicted, and how many were reported."""
    predicted = decision_in(answer)["predicted_cached_tokens"]
    reported = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert isinstance(predicted, int)
    return predicted, reported


async def asked(scene: Mocked, **fields: Any) -> tuple[int, int]:
    return tokens_in(await scene.ask(PROMPT, headers=EXPLAIN, **fields))


async def until_known(scene: Mocked, **fields: Any) -> None:
    """Ask until the router knows who has the prompt."""
    async with asyncio.timeout(DEADLINE_S):
        while (await asked(scene, **fields))[0] != CACHED:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


# One worker: wherever a request goes, its cache is there.
@pytest.mark.parametrize(
    "salted", [{"cache_salt": "tenant"}, {"nvext": {"cache_salt": "tenant"}}], ids=["as vLLM says it", "in nvext"]
)
async def test_a_prompt_with_another_salt_is_another_prompt_to_the_router_and_to_the_engine(
    tiny_model: Path, salted: dict[str, Any]
) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        assert await asked(scene) == (0, 0)
        await until_known(scene)
        assert await asked(scene, **salted) == (0, 0)
        await until_known(scene, **salted)
        assert await asked(scene, cache_salt="other") == (0, 0)
        await until_known(scene, cache_salt="other")
        for fields in ({}, salted, {"cache_salt": "other"}, {"cache_salt": "tenant"}):
            assert await asked(scene, **fields) == (CACHED, CACHED)


async def test_each_tenant_has_the_workers_that_it_was_at(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=3, router_mode="kv") as scene:
        for tenant in ("a", "b", "c"):
            await until_known(scene, cache_salt=tenant)
        for tenant in ("c", "a", "b"):
            assert await asked(scene, cache_salt=tenant) == (CACHED, CACHED)


async def test_without_events_the_router_remembers_each_tenant_by_itself(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv", router_use_kv_events=False) as scene:
        for salt in SALTS:
            assert await asked(scene, **salt) == (0, 0)
            assert await asked(scene, **salt) == (CACHED, CACHED)


async def test_without_a_kv_router_salts_still_keep_tenants_apart(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1) as scene:
        for salt in SALTS:
            reported = [
                (await scene.ask(PROMPT, **salt)).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
                for _ in range(2)
            ]
            assert reported == [0, CACHED]


async def test_a_salt_does_not_change_the_answer_and_is_in_no_explanation(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        plain = await scene.ask(PROMPT, max_tokens=9, temperature=0)
        salted = await scene.ask(PROMPT, max_tokens=9, temperature=0, headers=EXPLAIN, cache_salt="quite-secret")
        assert salted.json()["choices"] == plain.json()["choices"]
        known = await scene.http.get("/v1/explain")
        assert b"quite-secret" not in salted.content + known.content


async def test_conversations_have_salts_too(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv", router_use_kv_events=False) as scene:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "words " * 40}], "max_tokens": 1}
        found = []
        for salt in ("a", "a", "b"):
            answer = await scene.http.post("/v1/chat/completions", json=body | {"cache_salt": salt}, headers=EXPLAIN)
            predicted, reported = tokens_in(answer)
            assert predicted == reported
            found.append(bool(reported))
        assert found == [False, True, False]


async def test_a_salt_that_makes_no_sense_is_refused(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1) as scene:
        wrong: dict[str, dict[str, Any]] = {
            "cache_salt": {"cache_salt": ""},
            "nvext.cache_salt": {"nvext": {"cache_salt": 5}},
        }
        for where, salt in wrong.items():
            answer = await scene.ask(PROMPT, **salt)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, where)
