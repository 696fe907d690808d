"""Prefix caching, pass by pass: answers are those without it, whatever is reused, goes, or is cancelled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from tests.mocker.sink import NaiveSink
from tests.transformers.models import ARCHITECTURES, random_model

from dynamo.transformers._loading import LoadedModel
from dynamo.transformers._prefix_cache import PrefixCache
from dynamo.transformers._row import Row
from dynamo.transformers._sampling import Sampler, Warp
from dynamo.transformers._scheduler import Scheduler

BLOCK_SIZE = 4
STEPS_MAX = 10_000
#: Beginnings that prompts share; the second one begins as the first does.
SHARED = [random.Random(0).choices(range(300), k=40)]
SHARED.append([*SHARED[0][:17], *random.Random(1).choices(range(300), k=30)])


@pytest.fixture(scope="module", params=["biases", "some layers slide"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return random_model(ARCHITECTURES[request.param])


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@dataclass(eq=False)
class Asked:
    """A request; `cancel_at` says before which step it is cancelled."""

    prompt: list[int]
    seed: int
    max_tokens: int
    enter_at: int = 0
    cancel_at: int | None = None
    given: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def row(self) -> Row:
        sampler = Sampler(Warp(1.0), random.Random(self.seed), presence_penalty=0.3, num_top_logprobs=0)
        return Row(list(self.prompt), sampler, max_tokens=self.max_tokens)


class Bench:
    """A scheduler with a prefix cache, whose events are replayed and checked after every step."""

    def __init__(
        self,
        model: LoadedModel,
        num_blocks: int = 1000,
        *,
        kv_cells_max: int = 10**6,
        prefill_tokens_max: int = 2048,
        prefill_cells_max: int = 10**6,
    ) -> None:
        self.sink = NaiveSink(BLOCK_SIZE)
        self.prefixes = PrefixCache(num_blocks, BLOCK_SIZE, self.sink)
        self.scheduler = Scheduler(
            model.model,
            max_num_seqs=4,
            kv_cells_max=kv_cells_max,
            prefixes=self.prefixes,
            prefill_tokens_max=prefill_tokens_max,
            prefill_cells_max=prefill_cells_max,
        )

    def run(self, asked: list[Asked]) -> list[Row]:
        rows = {each: each.row() for each in asked}
        by_row = {row: each for each, row in rows.items()}
        for number in range(STEPS_MAX):
            for each in asked:
                if each.enter_at == number:
                    self.scheduler.add(rows[each])
                if each.cancel_at == number:
                    rows[each].is_cancelled = True
            for step in self.scheduler.step():
                assert step.choice is not None
                assert step.choice.log_prob is not None
                by_row[step.row].given.append(step.choice.token_id)
                by_row[step.row].log_probs.append(step.choice.log_prob)
            assert self.sink.block_hashes == self.prefixes.block_hashes
            if number > 20 and self.scheduler.num_running + self.scheduler.num_waiting == 0:
                break
        return list(rows.values())

    def ask(self, prompt: list[int], max_tokens: int = 8) -> tuple[Asked, int | None]:
        """Ask alone; return the answer, and how many tokens were cached."""
        asked = Asked(prompt, 7, max_tokens)
        (row,) = self.run([asked])
        return asked, row.num_cached_tokens


def alone(model: LoadedModel, asked: Asked) -> Asked:
    """What a request is given that shares with nobody."""
    expected = Asked(asked.prompt, asked.seed, asked.max_tokens)
    Bench(model, 0).run([expected])
    return expected


def assert_same(model: LoadedModel, asked: Asked) -> None:
    expected = alone(model, asked)
    count = len(asked.given)
    assert asked.given == expected.given[:count]
    assert asked.log_probs == pytest.approx(expected.log_probs[:count], abs=1e-4)
    assert asked.cancel_at is not None or count == len(expected.given)


def some_requests(rng: random.Random) -> list[Asked]:
    """Requests that begin alike, come and go when they like, and some of which are cancelled."""
    return [
        Asked(
            [*rng.choice(SHARED)[: rng.randint(0, 40)], *rng.choices(range(300), k=rng.randint(1, 20))],
            rng.randint(0, 5),
            rng.randint(1, 16),
            enter_at=rng.randint(0, 20),
            cancel_at=rng.choice([None, None, rng.randint(0, 30)]),
        )
        for _ in range(rng.randint(2, 8))
    ]


@pytest.mark.parametrize("seed", range(12))
def test_answers_are_those_without_it(model: LoadedModel, seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(
        model,
        rng.choice([1, 5, 12, 1000]),
        kv_cells_max=rng.choice([120, 300, 10**6]),
        prefill_tokens_max=rng.choice([7, 64, 2048]),
    )
    asked = some_requests(rng)
    bench.run(asked)
    for each in asked:
        assert_same(model, each)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_long_answer_from_a_cached_prefix_is_the_same_whatever_the_architecture(architecture: str) -> None:
    model = random_model(ARCHITECTURES[architecture])
    bench = Bench(model)
    bench.ask(SHARED[0])
    asked, num_cached = bench.ask([*SHARED[0], 5, 6, 7], 60)
    assert num_cached == 40
    assert_same(model, asked)


def test_another_token_early_in_the_prompt_finds_nothing_behind_it_and_gets_its_own_answer(model: LoadedModel) -> None:
    bench = Bench(model)
    first, _ = bench.ask(SHARED[0], 16)
    changed = [*SHARED[0][:5], (SHARED[0][5] + 1) % 300, *SHARED[0][6:]]
    other, num_cached = bench.ask(changed, 16)
    assert num_cached == 4
    assert_same(model, other)
    assert other.log_probs[0] != pytest.approx(first.log_probs[0], abs=1e-3)


def test_what_is_in_the_blocks_is_what_the_answer_is_computed_from(model: LoadedModel) -> None:
    """The control: keys and values of other tokens under the same name give another answer."""
    bench, liar = Bench(model), Bench(model)
    expected, _ = bench.ask(SHARED[0], 16)
    liar.ask(SHARED[1], 1)
    row = Row(list(SHARED[1]), Sampler(Warp(), random.Random(0)), max_tokens=1)
    liar.prefixes.num_found(row)
    lying = Row(list(SHARED[0]), Sampler(Warp(), random.Random(7), num_top_logprobs=0), max_tokens=16)
    lying.chain.block_hashes, lying.chain.tokens_hashes = row.chain.block_hashes, row.chain.tokens_hashes
    liar.scheduler.add(lying)
    (step,) = liar.scheduler.step()
    assert step.choice is not None
    assert lying.num_cached_tokens == 36
    assert step.choice.log_prob != pytest.approx(expected.log_probs[0], abs=1e-3)


def test_as_much_as_possible_is_reused_and_one_token_at_least_is_computed(model: LoadedModel) -> None:
    bench = Bench(model)
    assert [bench.ask(SHARED[0][:length], 1)[1] for length in (39, 40, 40, 37, 36, 4)] == [0, 36, 36, 36, 32, 0]


def test_tokens_that_were_generated_are_reused_but_for_the_last(model: LoadedModel) -> None:
    bench = Bench(model)
    first, _ = bench.ask(SHARED[0], 9)
    _, num_cached = bench.ask([*SHARED[0], *first.given, 5, 6, 7, 8])
    assert num_cached == 48


def test_what_a_cancelled_request_has_computed_is_reused(model: LoadedModel) -> None:
    bench = Bench(model)
    cancelled = Asked(SHARED[0], 1, 50, cancel_at=14)
    bench.run([cancelled])
    assert len(cancelled.given) == 14
    assert bench.ask([*SHARED[0], *cancelled.given, 5])[1] == 52


def test_of_requests_that_come_together_one_reads_what_they_share(model: LoadedModel) -> None:
    bench = Bench(model)
    asked = [Asked([*SHARED[0], 5, index], index, 3) for index in range(4)]
    rows = bench.run(asked)
    assert [row.num_cached_tokens for row in rows] == [0, 40, 40, 40]
    for each in asked:
        assert_same(model, each)


def test_requests_that_share_nothing_are_read_together(model: LoadedModel) -> None:
    bench = Bench(model)
    for index in range(4):
        bench.scheduler.add(Asked(random.Random(index).choices(range(300), k=20), index, 3).row())
    assert len(bench.scheduler.step()) == 4


def test_blocks_that_there_is_no_place_for_are_not_waited_for(model: LoadedModel) -> None:
    bench = Bench(model, 2)
    bench.ask(SHARED[0], 1)
    for index in range(4):
        bench.scheduler.add(Asked([*SHARED[0], 5, index], index, 3).row())
    assert len(bench.scheduler.step()) == 4


def test_a_prefill_of_cached_prefixes_takes_no_more_memory_than_its_limit(model: LoadedModel) -> None:
    bench = Bench(model, prefill_cells_max=100)
    bench.ask(SHARED[0], 1)
    for index in range(4):
        bench.scheduler.add(Asked([*SHARED[0], 5, index], index, 3).row())
    assert len(bench.scheduler.step()) == 2


def test_a_request_that_was_sent_back_finds_what_it_had(model: LoadedModel) -> None:
    bench = Bench(model, kv_cells_max=60)
    asked = [Asked([index] * 10, index, 40) for index in range(2)]
    rows = bench.run(asked)
    counts = bench.scheduler.counts
    assert counts.num_preemptions > 0
    assert counts.prefix_cache_hits > 0
    assert [row.num_cached_tokens for row in rows] == [0, 0], "what it found later is not its prompt's"
    for each in asked:
        assert_same(model, each)


def test_tokens_that_were_looked_for_and_found_are_counted(model: LoadedModel) -> None:
    bench = Bench(model)
    bench.ask(SHARED[0], 3)
    bench.ask(SHARED[0], 3)
    counts = bench.scheduler.counts
    assert (counts.prefix_cache_queries, counts.prefix_cache_hits) == (80, 36)
    assert (counts.prompt_tokens, counts.generation_tokens) == (80, 6)
    without = Bench(model, 0)
    without.ask(SHARED[0], 3)
    assert without.scheduler.counts.prefix_cache_queries == 0
