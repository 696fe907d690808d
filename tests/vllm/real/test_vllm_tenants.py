"""Salts of tenants in the real vLLM: its own events say of them what the router computes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.vllm.real.cases import GREEDY, ask, prompt
from tests.vllm.real.scene import Scene, tokens_of
from tests.vllm.real.settings import BLOCK_SIZE, DEADLINE_S, TEST_TIMEOUT_S

from dynamo._core.errors import InvalidArgument

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(TEST_TIMEOUT_S)]

SALTS: tuple[dict[str, Any], ...] = ({}, {"cache_salt": "a"}, {"nvext": {"cache_salt": "b"}})


async def asked(scene: Scene, token_ids: list[int], **fields: object) -> tuple[int, int]:
    """How many cached tokens were predicted, and how many vLLM reports."""
    answer = await scene.complete(token_ids, 1, **fields)
    [decision] = answer["nvext"]["explain"]["decisions"]
    reported = answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return decision["predicted_cached_tokens"], reported


async def until_known(scene: Scene, token_ids: list[int], num_tokens: int, **fields: object) -> None:
    """Ask until the router knows who has this prompt: vLLM's events take a moment."""
    async with asyncio.timeout(DEADLINE_S):
        while await asked(scene, token_ids, **fields) != (num_tokens, num_tokens):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_prompt_with_another_salt_is_another_prompt_to_the_router_and_to_vllm(scene: Scene) -> None:
    token_ids, cached = prompt(700, 100), 100 // BLOCK_SIZE * BLOCK_SIZE
    for salt in SALTS:
        assert await asked(scene, token_ids, **salt) == (0, 0)
        await until_known(scene, token_ids, cached, **salt)
    for salt in SALTS:
        assert await asked(scene, token_ids, **salt) == (cached, cached)


async def test_what_vllm_has_said_to_a_tenant_is_known_as_that_tenants(scene: Scene) -> None:
    """Blocks of generated tokens are told one by one, and the salt with the first of the prompt only."""
    question = ask(prompt(710, 40), 60, GREEDY)
    question.cache_salt = "a"
    turn = question.token_ids + tokens_of(await scene.generate(question)) + prompt(711, 20)
    # All but the last token that was said.
    await until_known(scene, turn, 96, cache_salt="a")
    assert await asked(scene, turn, cache_salt="b") == (0, 0)
    assert await asked(scene, turn) == (0, 0)


async def test_an_adapter_that_vllm_was_not_started_with_is_refused(scene: Scene) -> None:
    question = ask(prompt(720, 40), 2)
    question.lora_name = "mine"
    with pytest.raises(InvalidArgument, match="this worker has no LoRA adapters, and so not 'mine'"):
        await scene.generate(question)
