"""The transformers engine: what it answers, compared with the library's own `generate`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import torch
from tests.transformers.models import (
    ARCHITECTURES,
    answer,
    generated_by_the_library,
    loaded,
    random_model,
    read,
    request,
)
from transformers import MambaConfig

from dynamo._core.errors import ConfigError, DynamoError, EngineShutdown, InvalidArgument
from dynamo.llm import SamplingOptions, StopConditions
from dynamo.transformers import TransformersEngine
from dynamo.transformers._loading import LoadedModel


def prompts(count: int, vocab_size: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(20, vocab_size) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest_asyncio.fixture
async def engine(tiny_model: Path) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(loaded(tiny_model), max_num_seqs=8, seed=0)
    yield engine
    await engine.close()


async def answers(engine: TransformersEngine, wanted: list[list[int]], lengths: list[int]) -> list[list[int]]:
    return list(await asyncio.gather(*map(answer, [engine] * len(wanted), map(request, wanted, lengths))))


async def test_greedy_answers_of_a_changing_batch_are_those_of_generate_alone(
    engine: TransformersEngine, tiny_model: Path
) -> None:
    model = loaded(tiny_model).model
    wanted = prompts(24, 2000)
    lengths = [random.Random(index).randint(1, 40) for index in range(24)]
    expected = [generated_by_the_library(model, *each) for each in zip(wanted, lengths, strict=True)]
    assert await answers(engine, wanted, lengths) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_greedy_answers_are_those_of_generate_whatever_the_architecture(architecture: str) -> None:
    model = random_model(ARCHITECTURES[architecture])
    wanted, lengths = prompts(10, 300), [random.Random(index).randint(1, 30) for index in range(10)]
    engine = TransformersEngine(model, max_num_seqs=4)
    got = await answers(engine, wanted, lengths)
    await engine.close()
    assert got == [generated_by_the_library(model.model, *each) for each in zip(wanted, lengths, strict=True)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_models_of_these_tests_look_at_the_whole_prompt(architecture: str) -> None:
    model = random_model(ARCHITECTURES[architecture]).model
    answers = {tuple(generated_by_the_library(model, [first, *range(50, 58)], 12)) for first in range(20, 28)}
    assert len(answers) > 3


def test_a_model_with_another_kind_of_state_is_refused() -> None:
    model = random_model(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2))
    with pytest.raises(ConfigError, match="another engine"):
        TransformersEngine(model)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 5}], ids=str)
async def test_a_seeded_answer_does_not_depend_on_who_else_is_in_the_batch(
    engine: TransformersEngine, sampling: dict[str, float]
) -> None:
    wanted = [request(prompt, 30, {"seed": seed, **sampling}) for seed, prompt in enumerate(prompts(8, 2000))]
    alone = [await answer(engine, each) for each in wanted]
    assert list(await asyncio.gather(*(answer(engine, each) for each in wanted))) == alone


async def test_another_seed_gives_another_answer(engine: TransformersEngine) -> None:
    one, other = [await answer(engine, request([5, 6, 7], 30, {"seed": seed})) for seed in (1, 2)]
    assert one != other


async def test_without_a_seed_answers_differ(engine: TransformersEngine) -> None:
    one, other = [await answer(engine, request([5, 6, 7], 30, {})) for _ in range(2)]
    assert one != other


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-9}], ids=str
)
async def test_the_narrowest_setting_of_each_parameter_is_greedy(
    engine: TransformersEngine, narrow: dict[str, float]
) -> None:
    greedy = await answer(engine, request([5, 6, 7], 20))
    assert await answer(engine, request([5, 6, 7], 20, narrow)) == greedy


@pytest.mark.parametrize("penalty", [{"presence_penalty": 100.0}, {"frequency_penalty": 100.0}], ids=str)
async def test_a_high_penalty_keeps_every_token_from_coming_twice(
    engine: TransformersEngine, penalty: dict[str, float]
) -> None:
    greedy = await answer(engine, request([5, 6, 7], 60))
    penalized = await answer(engine, request([5, 6, 7], 60, {"temperature": 0.0, **penalty}))
    assert len(set(greedy)) < 60
    assert len(set(penalized)) == 60


async def test_a_repetition_penalty_is_the_library_s(engine: TransformersEngine, tiny_model: Path) -> None:
    prompt, model = [5, 6, 7], loaded(tiny_model).model
    with torch.inference_mode():
        expected = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=40, min_new_tokens=40, repetition_penalty=1.5
        )
    got = await answer(engine, request(prompt, 40, {"temperature": 0.0, "repetition_penalty": 1.5}))
    assert got == expected[0, 3:].tolist()


async def test_a_parameter_that_the_request_leaves_out_is_the_model_s_own(tiny_model: Path) -> None:
    tiny = loaded(tiny_model)
    careful = LoadedModel(
        tiny.model, tiny.vocab_size, tiny.max_context_length, tiny.kv_cells_max, defaults=SamplingOptions(top_k=1)
    )
    engine = TransformersEngine(careful)
    assert await answer(engine, request([5, 6, 7], 16, {})) == await answer(engine, request([5, 6, 7]))
    await engine.close()


async def test_the_model_s_own_end_of_sequence_ends_an_answer(tiny_model: Path, engine: TransformersEngine) -> None:
    tiny, greedy = loaded(tiny_model), await answer(engine, request([5, 6, 7]))
    model = LoadedModel(
        tiny.model, tiny.vocab_size, tiny.max_context_length, tiny.kv_cells_max, eos_token_ids=(greedy[3],)
    )
    other = TransformersEngine(model)
    outputs = await read(other, request([5, 6, 7], stop=StopConditions(max_tokens=16)))
    await other.close()
    assert [token for output in outputs for token in output.token_ids] == greedy[: greedy.index(greedy[3]) + 1]
    assert outputs[-1].finish_reason == "stop"


async def test_before_min_tokens_another_token_takes_the_place_of_a_stop_token(engine: TransformersEngine) -> None:
    greedy = await answer(engine, request([5, 6, 7]))
    stop = StopConditions(max_tokens=16, min_tokens=8, stop_token_ids=[greedy[0], 10**9], ignore_eos=True)
    got = await answer(engine, request([5, 6, 7], stop=stop))
    assert len(got) >= 8
    assert greedy[0] not in got[:8]


async def test_log_probabilities_come_with_each_token_that_was_asked_for(
    engine: TransformersEngine, tiny_model: Path
) -> None:
    wanted = request([5, 6, 7], 5)
    wanted.output_options.logprobs = 3
    outputs = await read(engine, wanted)
    tokens = [token for output in outputs for token in output.token_ids]
    log_probs = [value for output in outputs for value in output.log_probs or []]
    tops = [top for output in outputs for top in output.top_logprobs or []]
    with torch.inference_mode():
        logits = loaded(tiny_model).model(torch.tensor([[5, 6, 7, *tokens]])).logits[0, 2:-1]
    expected = logits.log_softmax(-1)
    assert log_probs == pytest.approx(
        [float(row[token]) for row, token in zip(expected, tokens, strict=True)], abs=1e-4
    )
    for top, row in zip(tops, expected, strict=True):
        assert [(each.rank, each.token_id) for each in top] == list(enumerate(row.topk(3).indices.tolist(), start=1))


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 1.1},
        {"top_k": -2},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"presence_penalty": float("inf")},
        {"n": 2},
    ],
    ids=str,
)
async def test_a_parameter_out_of_range_is_refused_by_name_and_harms_nobody(
    engine: TransformersEngine, sampling: dict[str, float]
) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(sampling))):
        await answer(engine, request([5, 6, 7], 16, sampling))
    assert len(await answer(engine, request([5, 6, 7]))) == 16


@pytest.mark.parametrize("token_id", [-1, 2048, 10**12])
async def test_a_token_that_the_model_does_not_have_is_refused(engine: TransformersEngine, token_id: int) -> None:
    with pytest.raises(InvalidArgument, match="token ids must be"):
        await answer(engine, request([5, token_id]))


class Failing(torch.nn.Module):
    """A model that runs for so many passes, then fails."""

    def __init__(self, model: torch.nn.Module, num_passes: int) -> None:
        super().__init__()
        self.inner = model
        self.num_passes = num_passes
        self.config = model.config
        self.device = torch.device("cpu")

    def forward(self, logits_to_keep: int, position_ids: torch.Tensor, **inputs: object) -> object:
        self.num_passes -= 1
        if self.num_passes < 0:
            raise RuntimeError("out of memory")
        return self.inner(logits_to_keep=logits_to_keep, position_ids=position_ids, **inputs)


async def test_when_a_pass_fails_every_request_fails_and_no_more_are_taken(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = loaded(tiny_model)
    model = LoadedModel(Failing(tiny.model, 6), 2048, tiny.max_context_length, tiny.kv_cells_max)
    engine = TransformersEngine(model, max_num_seqs=2)
    async with asyncio.timeout(30):
        results = await asyncio.gather(
            *(answer(engine, request([5, 6, 7], 100)) for _ in range(4)), return_exceptions=True
        )
        ended = await engine.ended()
    with pytest.raises(EngineShutdown):
        await answer(engine, request([5, 6, 7]))
    await engine.close()
    assert [(type(result), str(result)) for result in results] == [
        (EngineShutdown, "the engine failed: RuntimeError: out of memory")
    ] * 4
    assert isinstance(ended.__cause__, RuntimeError)
    assert "out of memory" in caplog.text


class Counting(torch.nn.Module):
    """A model that notes with how many threads it runs."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        self.device = torch.device("cpu")
        self.num_threads: set[int] = set()

    def forward(self, **inputs: object) -> object:
        self.num_threads.add(torch.get_num_threads())
        return self.inner(**inputs)


@pytest.mark.parametrize("num_threads", [1, 2])
async def test_the_model_runs_with_the_threads_that_were_asked_for(tiny_model: Path, num_threads: int) -> None:
    tiny = loaded(tiny_model)
    counting = Counting(tiny.model)
    model = LoadedModel(counting, 2048, tiny.max_context_length, tiny.kv_cells_max)
    engine = TransformersEngine(model, num_threads=num_threads)
    await answer(engine, request([5, 6, 7]))
    await engine.close()
    assert counting.num_threads == {num_threads}


class NotANumber(torch.nn.Module):
    """A model that gives no numbers for prompts that begin with token 9."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **inputs: object) -> object:
        output = self.inner(input_ids=input_ids, position_ids=position_ids, **inputs)
        is_bad = ((input_ids == 9) & (position_ids == 0)).any(-1)
        output.logits = output.logits.masked_fill(is_bad[:, None, None], float("nan"))
        return output


async def test_a_request_for_which_the_model_gives_no_numbers_fails_alone(tiny_model: Path) -> None:
    tiny = loaded(tiny_model)
    model = LoadedModel(NotANumber(tiny.model), 2048, tiny.max_context_length, tiny.kv_cells_max)
    engine = TransformersEngine(model)
    bad, good = await asyncio.gather(
        answer(engine, request([9, 6, 7])), answer(engine, request([5, 6, 7])), return_exceptions=True
    )
    await engine.close()
    assert isinstance(bad, DynamoError)
    assert good == generated_by_the_library(tiny.model, [5, 6, 7], 16)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_request_that_no_token_is_allowed_for_fails_alone(
    tiny_model: Path, engine: TransformersEngine, temperature: float
) -> None:
    every_token = list(range(loaded(tiny_model).vocab_size))
    stop = StopConditions(max_tokens=4, min_tokens=2, stop_token_ids=every_token)
    with pytest.raises(DynamoError, match="or no token may come"):
        await answer(engine, request([5, 6, 7], sampling={"temperature": temperature}, stop=stop))
    assert len(await answer(engine, request([5, 6, 7], 4))) == 4


async def test_the_tokens_of_another_worker_count_as_the_answer_s(engine: TransformersEngine) -> None:
    resumed = msgspec.structs.replace(request([5, 6, 7, 8, 9], 4), num_resumed_tokens=2)
    usage = (await read(engine, resumed))[-1].completion_usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 6, 9)


@pytest.mark.parametrize(("num_resumed_tokens", "said"), [(4, "=4 are not among the 3"), (3, "the prompt is empty")])
async def test_tokens_of_another_worker_that_leave_no_prompt_are_refused(
    engine: TransformersEngine, num_resumed_tokens: int, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        await answer(engine, msgspec.structs.replace(request([5, 6, 7], 4), num_resumed_tokens=num_resumed_tokens))
