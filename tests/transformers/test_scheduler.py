"""The scheduler, pass by pass: parts of prompts, a cache that is too small, and who runs when."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch
from tests.transformers.models import random_model
from transformers import Qwen2Config

from dynamo.transformers._loading import LoadedModel
from dynamo.transformers._prefix_cache import PrefixCache
from dynamo.transformers._row import Row, Step
from dynamo.transformers._sampling import Sampler, Warp
from dynamo.transformers._scheduler import Scheduler

CONFIG = Qwen2Config(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.3,
)
STEPS_MAX = 10_000


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return random_model(CONFIG)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def make_scheduler(
    model: LoadedModel, *, max_num_seqs: int = 8, kv_cells_max: int = 10**6, prefill_tokens_max: int = 2048
) -> Scheduler:
    return Scheduler(
        model.model,
        max_num_seqs=max_num_seqs,
        kv_cells_max=kv_cells_max,
        prefixes=PrefixCache(0, 16),
        prefill_tokens_max=prefill_tokens_max,
    )


def make_row(index: int, max_tokens: int = 20, temperature: float = 1.0, num_prompt_tokens: int | None = None) -> Row:
    rng = random.Random(index)
    count = num_prompt_tokens or rng.randint(1, 50)
    sampler = Sampler(Warp(temperature), random.Random(index))
    return Row([rng.randrange(300) for _ in range(count)], sampler, max_tokens=max_tokens)


def run(scheduler: Scheduler, rows: list[Row]) -> list[list[int]]:
    """Run the rows to their ends; return what each was given."""
    for row in rows:
        scheduler.add(row)
    given: dict[Row, list[int]] = defaultdict(list)
    for _ in range(STEPS_MAX):
        if scheduler.num_running + scheduler.num_waiting == 0:
            break
        for step in scheduler.step():
            assert step.choice is not None
            given[step.row].append(step.choice.token_id)
    return [given[row] for row in rows]


def alone(model: LoadedModel, count: int, max_tokens: int = 20) -> list[list[int]]:
    return [run(make_scheduler(model), [make_row(index, max_tokens)])[0] for index in range(count)]


@pytest.mark.parametrize("prefill_tokens_max", [1, 7, 64])
def test_prompts_that_are_read_in_parts_give_the_same_answers(model: LoadedModel, prefill_tokens_max: int) -> None:
    scheduler = make_scheduler(model, prefill_tokens_max=prefill_tokens_max)
    assert run(scheduler, [make_row(index) for index in range(8)]) == alone(model, 8)


@pytest.mark.parametrize("kv_cells_max", [80, 200, 500])
def test_a_cache_that_is_too_small_for_all_gives_the_same_answers(model: LoadedModel, kv_cells_max: int) -> None:
    scheduler = make_scheduler(model, kv_cells_max=kv_cells_max)
    assert run(scheduler, [make_row(index) for index in range(8)]) == alone(model, 8)


def test_when_the_cache_is_full_the_youngest_goes_back_and_the_oldest_goes_on(model: LoadedModel) -> None:
    scheduler = make_scheduler(model, kv_cells_max=60)
    old, young = make_row(0, 40, num_prompt_tokens=10), make_row(1, 40, num_prompt_tokens=10)
    scheduler.add(old)
    scheduler.add(young)
    while scheduler.num_waiting or not scheduler.num_running:
        scheduler.step()
    while not scheduler.num_waiting:
        scheduler.step()
    assert scheduler.num_running == 1
    assert {step.row for step in scheduler.step()} == {old}


def test_a_token_comes_between_two_parts_of_a_long_prompt(model: LoadedModel) -> None:
    scheduler = make_scheduler(model, prefill_tokens_max=10)
    running, long = make_row(0, 50, num_prompt_tokens=5), make_row(1, 5, num_prompt_tokens=100)
    scheduler.add(running)
    scheduler.step()
    scheduler.add(long)
    steps = [scheduler.step() for _ in range(18)]
    assert [_rows(each) for each in steps] == [[running], []] * 9
    assert [_rows(scheduler.step()) for _ in range(3)] == [[running], [long], [running, long]]


def test_requests_are_served_in_the_order_in_which_they_came(model: LoadedModel) -> None:
    scheduler = make_scheduler(model, max_num_seqs=2)
    rows = [make_row(index, 3) for index in range(6)]
    for row in rows:
        scheduler.add(row)
    firsts: list[Row] = []
    while scheduler.num_running + scheduler.num_waiting:
        firsts += [step.row for step in scheduler.step() if step.row not in firsts]
    assert firsts == rows


@pytest.mark.parametrize("passes", [0, 1, 2, 5, 8])
def test_a_cancelled_request_leaves_before_the_next_pass(model: LoadedModel, passes: int) -> None:
    scheduler = make_scheduler(model, prefill_tokens_max=20)
    rows = [make_row(index) for index in range(3)]
    for row in rows:
        scheduler.add(row)
    given: dict[Row, list[int]] = defaultdict(list)
    for number in range(STEPS_MAX):
        rows[1].is_cancelled = number >= passes
        for step in scheduler.step():
            assert not step.row.is_cancelled
            given[step.row].append(step.choice.token_id if step.choice else -1)
        if scheduler.num_running + scheduler.num_waiting == 0:
            break
    expected = alone(model, 3)
    assert [given[rows[0]], given[rows[2]]] == [expected[0], expected[2]]


def _rows(steps: list[Step]) -> list[Row]:
    return [step.row for step in steps]
