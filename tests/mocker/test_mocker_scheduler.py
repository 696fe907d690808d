"""The scheduler: batching, chunks, what is cached, and who has to go when blocks run out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mocker.scene import Bench, expected, request

from dynamo._core.errors import InvalidArgument, Overloaded

SMALL = {"block_size": 4, "num_gpu_blocks": 64, "max_num_seqs": 4, "max_num_batched_tokens": 16}


def bench(**settings: object) -> Bench:
    return Bench(**{**SMALL, "max_context_length": 200, **settings})


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(100), k=length)


def test_a_prompt_is_computed_in_one_step_and_then_each_token_in_one() -> None:
    scene = bench()
    sequence = scene.add(request(prompt(1, 10), 5))
    works = [step.work for step in scene.run()]
    assert [work.num_prefill_tokens for work in works] == [10, 0, 0, 0, 0]
    assert [work.num_decodes for work in works] == [0, 1, 1, 1, 1]
    assert [work.num_decode_kv_tokens for work in works] == [0, 10, 11, 12, 13]
    assert scene.reason(sequence) == "length"


def test_a_long_prompt_is_computed_in_chunks_while_others_decode() -> None:
    scene = bench()
    scene.add(request(prompt(1, 4), 9))
    scene.step()
    scene.add(request(prompt(2, 40), 2))
    works = [scene.step().work for _ in range(3)]
    assert [(work.num_prefill_tokens, work.num_decodes) for work in works] == [(15, 1), (15, 1), (10, 1)]
    assert sum(work.num_prefill_pairs for work in works) == pytest.approx(40 * 40 / 2, abs=3)


def test_without_chunks_a_prompt_waits_until_it_fits_whole() -> None:
    scene = bench(enable_chunked_prefill=False, max_context_length=16)
    scene.add(request(prompt(1, 10), 2))
    scene.add(request(prompt(2, 10), 2))
    works = [step.work for step in scene.run()]
    assert [(work.num_prefill_tokens, work.num_decodes) for work in works] == [(10, 0), (10, 1), (0, 1)]


def test_no_more_than_the_places_run_at_a_time() -> None:
    scene = bench(max_num_seqs=2)
    for seed in range(5):
        scene.add(request(prompt(seed, 5), 3))
    scene.step()
    assert (scene.scheduler.num_running, scene.scheduler.num_waiting) == (2, 3)
    scene.run()


def test_a_full_queue_refuses() -> None:
    scene = bench(max_num_seqs=1)
    for _ in range(scene.config.num_requests_waiting_max):
        scene.add(request([1], 1))
    with pytest.raises(Overloaded, match="32 requests wait"):
        scene.add(request([1], 1))
    scene.run()


def test_the_second_of_two_equal_prompts_computes_only_what_is_not_cached() -> None:
    scene = bench()
    scene.add(request(prompt(1, 13), 2))
    scene.run()
    again = scene.add(request(prompt(1, 13), 2))
    assert scene.run()[0].work.num_prefill_tokens == 1
    assert again.num_cached_tokens == 12


def test_the_last_token_of_a_prompt_is_computed_even_if_all_of_it_is_cached() -> None:
    scene = bench()
    scene.add(request(prompt(1, 12), 1))
    scene.run()
    again = scene.add(request(prompt(1, 12), 1))
    scene.run()
    assert again.num_cached_tokens == 8


def test_blocks_of_generated_tokens_are_found_by_the_next_turn_of_a_conversation() -> None:
    scene = bench()
    first = scene.add(request(prompt(1, 6), 11))
    scene.run()
    turn = scene.add(request([*prompt(1, 6), *scene.said(first), 7, 7], 1))
    scene.run()
    # The first turn computed all of its 17 tokens but the last.
    assert turn.num_cached_tokens == 16


def test_without_prefix_caching_nothing_is_found_and_nothing_is_told() -> None:
    scene = bench(enable_prefix_caching=False)
    for _ in range(2):
        sequence = scene.add(request(prompt(1, 13), 9))
        scene.run()
        assert sequence.num_cached_tokens == 0
    assert scene.sink.events == []
    assert scene.scheduler.counts.prefix_cache_queries == 0


def test_the_counts_are_those_of_vllm() -> None:
    scene = bench()
    for _ in range(2):
        scene.add(request(prompt(1, 10), 3))
        scene.run()
    counts = scene.scheduler.counts
    assert (counts.prefix_cache_queries, counts.prefix_cache_hits) == (20, 8)
    assert (counts.prompt_tokens, counts.generation_tokens, counts.num_preemptions) == (20, 6, 0)


def test_the_request_that_came_last_gives_way_when_blocks_run_out_and_says_the_same_as_alone() -> None:
    scene = bench(num_gpu_blocks=8, max_context_length=32)
    first, second = request(prompt(1, 8), 20), request(prompt(2, 8), 20)
    sequences = [scene.add(first), scene.add(second)]
    while scene.scheduler.has_work:
        scene.step()
        assert sequences[0].is_running or scene.reason(sequences[0]) == "length"
    assert scene.scheduler.counts.num_preemptions > 0
    assert [scene.said(one) for one in sequences] == [expected(first), expected(second)]


def test_a_preempted_request_finds_what_is_left_of_its_own_blocks() -> None:
    scene = bench(num_gpu_blocks=8, max_context_length=32)
    scene.add(request(prompt(1, 8), 16))
    second = scene.add(request(prompt(2, 8), 16))
    while not scene.scheduler.counts.num_preemptions:
        scene.step()
    computed = second.num_generated + 8
    while not second.is_running:
        scene.step()
    assert 0 < second.num_computed <= computed + 1
    assert second.num_cached_tokens == 0, "what it found when it began"
    scene.run()


def test_a_request_that_is_removed_in_the_middle_of_a_step_gets_nothing_from_it() -> None:
    scene = bench()
    gone, stays = scene.add(request(prompt(1, 10), 5)), scene.add(request(prompt(2, 6), 5))
    step = scene.scheduler.schedule()
    scene.scheduler.remove(gone)
    scene.check()
    assert [one.sequence for one in scene.scheduler.complete(step)] == [stays]
    scene.check()
    scene.scheduler.remove(gone)
    scene.scheduler.remove(stays)
    assert (scene.scheduler.has_work, scene.pool.num_held) == (False, 0)


@pytest.mark.parametrize("num_resumed", [-1, 4, 5])
def test_more_resumed_tokens_than_there_are_are_refused(num_resumed: int) -> None:
    asked = request([1, 2, 3, 4])
    asked.num_resumed_tokens = num_resumed
    with pytest.raises(InvalidArgument):
        bench().sequence(asked)


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 4),  # whose prompt it begins with
        st.integers(1, 60),  # how long that is
        st.integers(1, 30),  # how many tokens are wanted
        st.integers(0, 12),  # after how many steps it comes
        st.none() | st.integers(0, 40),  # after how many of them it is cancelled
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(
    asked=REQUESTS,
    num_gpu_blocks=st.integers(23, 60),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(6, 64),
    caching=st.booleans(),
)
def test_whatever_runs_together_everybody_gets_what_they_get_alone(
    asked: list[tuple[int, int, int, int, int | None]],
    num_gpu_blocks: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    caching: bool,
) -> None:
    """`Bench` checks after every step that no block is lost or shared too early, and that the events are true."""
    scene = Bench(
        block_size=4,
        num_gpu_blocks=num_gpu_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_context_length=90,
        enable_prefix_caching=caching,
    )
    coming = sorted(enumerate(asked), key=lambda one: one[1][3])
    cancelled_at: dict[int, int] = {}
    sequences = {}
    now = 0
    while coming or scene.scheduler.has_work:
        while coming and coming[0][1][3] <= now:
            index, (seed, length, max_tokens, _, patience) = coming.pop(0)
            sequences[index] = scene.add(request(prompt(seed, length), max_tokens))
            if patience is not None:
                cancelled_at[index] = now + patience
        for index, at in cancelled_at.items():
            if at == now:
                scene.scheduler.remove(sequences[index])
        if scene.scheduler.has_work:
            scene.step()
        now += 1
    assert scene.pool.num_held == 0
    for index, sequence in sequences.items():
        seed, length, max_tokens, *_ = asked[index]
        whole = expected(request(prompt(seed, length), max_tokens))
        said = scene.said(sequence)
        assert said == whole[: len(said)]
        if len(said) < max_tokens:
            assert index in cancelled_at
        else:
            assert scene.reason(sequence) == "length"


@settings(deadline=None, max_examples=100)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50), st.integers(1, 12)), min_size=2, max_size=8),
    num_gpu_blocks=st.integers(16, 64),
)
def test_what_is_reported_as_cached_was_computed_before_and_is_as_much_as_the_events_promised(
    pairs: list[tuple[int, int, int]], num_gpu_blocks: int
) -> None:
    scene = bench(num_gpu_blocks=num_gpu_blocks, max_context_length=64)
    computed: list[list[int]] = []
    for seed, length, max_tokens in pairs:
        asked = request(prompt(seed, length), max_tokens)
        sequence = scene.sequence(asked)
        sequence.hash_blocks((length - 1) // 4)
        promised = 0
        for block_hash in sequence.block_hashes:
            if block_hash not in scene.sink.block_hashes:
                break
            promised += 4
        sequence = scene.add(asked)
        scene.run()
        assert sequence.num_cached_tokens == promised
        assert promised <= max((_in_common(asked.token_ids, other) for other in computed), default=0)
        computed.append([*asked.token_ids, *scene.said(sequence)])


def _in_common(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(length=st.integers(1, 40), num_resumed=st.integers(0, 20), seed=st.integers(0, 5))
def test_an_answer_that_began_elsewhere_goes_on_where_it_stopped(length: int, num_resumed: int, seed: int) -> None:
    whole = request(prompt(seed, length), 21)
    tokens = expected(whole)
    rest = request([*whole.token_ids, *tokens[:num_resumed]], 21 - num_resumed)
    rest.num_resumed_tokens = num_resumed
    scene = bench()
    sequence = scene.add(rest)
    scene.run()
    assert scene.said(sequence) == tokens[num_resumed:]
    usage = sequence.usage()
    assert (usage.prompt_tokens, usage.completion_tokens) == (length, 21)
