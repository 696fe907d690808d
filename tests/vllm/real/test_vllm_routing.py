"""A KV routing frontend before two vLLM workers: it learns from their own events what they hold."""

from __future__ import annotations

import asyncio

import pytest
from tests.vllm.real.cases import GREEDY, ask, prompt
from tests.vllm.real.scene import Json, Scene, tokens_of
from tests.vllm.real.settings import BLOCK_SIZE, CONTEXT_LENGTH, DEADLINE_S, TEST_TIMEOUT_S

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(TEST_TIMEOUT_S)]


def routed(answer: Json) -> tuple[int, int, int]:
    """Which worker had the request, how many cached tokens were predicted, and how many vLLM reports."""
    [decision] = answer["nvext"]["explain"]["decisions"]
    reported = answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return decision["worker_id"], decision["predicted_cached_tokens"], reported


async def until_known(scene: Scene, token_ids: list[int], instance_id: int) -> None:
    """Ask a worker until the router knows that it has this prompt: vLLM's events take a moment.

    Another worker that was asked meanwhile would have it afterwards, too.
    """
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await scene.complete(token_ids, 1, nvext={"backend_instance_id": instance_id})
            _, predicted, reported = routed(answer)
            if predicted and predicted == reported:
                return


async def test_repeated_prompts_go_to_the_worker_that_has_them_and_it_has_as_much_as_was_predicted(
    scene: Scene,
) -> None:
    prompts = [prompt(200 + n, 100 + 7 * n) for n in range(8)]
    first = {}
    for n, token_ids in enumerate(prompts):
        first[n], predicted, reported = routed(await scene.complete(token_ids, 4))
        assert (predicted, reported) == (0, 0)
    assert set(first.values()) == {worker.instance_id for worker in scene.workers}, "both have work"
    # Events of one worker come in order: when the last is known, all are.
    for instance_id in set(first.values()):
        last = max(n for n, worker in first.items() if worker == instance_id)
        await until_known(scene, prompts[last], instance_id)
    for n, token_ids in reversed(list(enumerate(prompts))):
        worker, predicted, reported = routed(await scene.complete(token_ids, 4))
        assert worker == first[n]
        assert predicted == reported == (len(token_ids) - 1) // BLOCK_SIZE * BLOCK_SIZE


async def test_the_next_turn_of_a_conversation_goes_to_the_worker_that_has_said_the_last_one(scene: Scene) -> None:
    for n, worker in enumerate(scene.workers):
        question = prompt(300 + n, 70)
        said = tokens_of(await scene.generate(ask(question, 60, GREEDY), worker))
        next_turn = question + said + prompt(400 + n, 20)
        await until_known(scene, question + said, worker.instance_id)
        chosen, predicted, reported = routed(await scene.complete(next_turn, 4))
        assert chosen == worker.instance_id
        assert predicted == reported == 128, "what it has said is cached as well as what it was asked"


async def test_what_vllm_has_dropped_from_its_cache_is_not_predicted(scene: Scene) -> None:
    token_ids, marker = prompt(500, 100), prompt(501, 100)
    instance_id, *_ = routed(await scene.complete(token_ids, 1))
    await until_known(scene, token_ids, instance_id)
    [holder] = [worker for worker in scene.workers if worker.instance_id == instance_id]
    for n in range(3):  # more than all the blocks that it has
        await scene.generate(ask(prompt(510 + n, CONTEXT_LENGTH - 10), 1), holder)
    await scene.generate(ask(marker, 1), holder)
    await until_known(scene, marker, instance_id)  # and so, all that was before it
    _, predicted, reported = routed(await scene.complete(token_ids, 1))
    assert predicted == reported == 0
