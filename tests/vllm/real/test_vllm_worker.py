"""A vLLM worker, end to end: the real engine on a CPU, a real frontend, real processes."""

from __future__ import annotations

import pytest
from tests.vllm.real.cases import CASES, GREEDY, Case, ask, prompt
from tests.vllm.real.scene import Scene, World, tokens_of
from tests.vllm.real.settings import BLOCK_SIZE, CONTEXT_LENGTH, MAX_NUM_SEQS, NUM_BLOCKS, TEST_TIMEOUT_S

from dynamo._core.address import MODEL_CARDS
from dynamo._core.errors import InvalidArgument
from dynamo.llm._model_card import ModelCard

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(TEST_TIMEOUT_S)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_worker_answers_exactly_as_vllm_alone(scene: Scene, world: World, case: Case) -> None:
    expected = await world.answer_of_vllm_alone(case)
    outputs = await scene.generate(case.ours)
    assert tokens_of(outputs) == expected["token_ids"]
    assert outputs[-1].finish_reason == expected["finish_reason"]
    log_probs = [log_prob for output in outputs for log_prob in output.log_probs or ()]
    assert log_probs == pytest.approx(expected["log_probs"], abs=1e-4)


async def test_only_the_last_output_has_a_finish_reason_and_the_first_and_last_the_usage(scene: Scene) -> None:
    outputs = await scene.generate(ask(prompt(100, 40), 12))
    assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert outputs[0].completion_usage is not None
    usage = outputs[-1].completion_usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (40, 12, 52)


async def test_a_stop_token_ends_the_answer_and_is_in_it(scene: Scene) -> None:
    whole = tokens_of(await scene.generate(ask(prompt(101, 40), 20, GREEDY)))
    outputs = await scene.generate(ask(prompt(101, 40), 20, GREEDY, stop_token_ids=[whole[7]]))
    assert tokens_of(outputs) == whole[: whole.index(whole[7]) + 1]
    assert outputs[-1].finish_reason == "stop"


async def test_an_answer_that_began_elsewhere_goes_on_as_if_nothing_had_happened(scene: Scene) -> None:
    whole = tokens_of(await scene.generate(ask(prompt(102, 40), 30, GREEDY)))
    rest = ask(prompt(102, 40) + whole[:11], 19, GREEDY)
    rest.num_resumed_tokens = 11
    outputs = await scene.generate(rest, scene.workers[1])
    assert tokens_of(outputs) == whole[11:]
    assert outputs[-1].completion_usage is not None
    assert outputs[-1].completion_usage.prompt_tokens == 40
    assert outputs[-1].completion_usage.completion_tokens == 30


@pytest.mark.parametrize(
    ("token_ids", "max_tokens"),
    [([], 5), ([5] * CONTEXT_LENGTH, 5), ([5] * 3 * CONTEXT_LENGTH, 5), ([5], 0), ([10**6], 5)],
    ids=["empty", "as long as the context", "longer", "max_tokens=0", "no token of the model"],
)
async def test_a_request_that_cannot_be_served_is_an_invalid_argument(
    scene: Scene, token_ids: list[int], max_tokens: int
) -> None:
    with pytest.raises(InvalidArgument):
        await scene.generate(ask(token_ids, max_tokens))


async def test_a_stop_token_that_the_model_does_not_have_does_not_hurt_the_engine(scene: Scene) -> None:
    request = ask(prompt(103, 20), 8, stop_token_ids=[10**6], min_tokens=5)
    assert len(tokens_of(await scene.generate(request))) == 8


async def test_the_context_ends_an_answer_that_asks_for_more(scene: Scene) -> None:
    outputs = await scene.generate(ask(prompt(104, CONTEXT_LENGTH - 20), 1000))
    assert len(tokens_of(outputs)) == 20
    assert outputs[-1].finish_reason == "length"


async def test_its_card_says_what_vllm_has_made_of_its_settings(scene: Scene) -> None:
    cards = [ModelCard.from_json(card) for card in (await scene.runtime.discovery.get_prefix(MODEL_CARDS)).values()]
    assert len(cards) == 2
    for card in cards:
        assert (card.context_length, card.kv_cache_block_size) == (CONTEXT_LENGTH, BLOCK_SIZE)
        assert card.runtime_config["total_kv_blocks"] == NUM_BLOCKS
        assert card.runtime_config["max_num_seqs"] == MAX_NUM_SEQS
        assert isinstance(card.runtime_config["max_num_batched_tokens"], int)
        assert card.runtime_config["kv_events"] is True


async def test_its_metrics_are_those_of_vllm_beside_ours(scene: Scene) -> None:
    worker = scene.workers[0]
    before = await worker.metric(scene.http, "vllm:generation_tokens_total")
    await scene.generate(ask(prompt(105, 40), 25))
    assert await worker.metric(scene.http, "vllm:generation_tokens_total") == before + 25
    assert await worker.metric(scene.http, "dynamo_component_requests_total") > 0
