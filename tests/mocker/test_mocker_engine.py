"""The simulated engine on the clock: the virtual one, so that hours pass in a moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from tests.mocker.scene import expected, request
from tests.mocker.sink import NaiveSink
from tests.sim.loop import SimLoop, run

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, EngineShutdown, InvalidArgument
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.mocker import MockerConfig, MockerEngine, PolynomialTiming

T = TypeVar("T")

TIMING = PolynomialTiming(
    base_s=1.0, prefill_token_s=0.0, prefill_pair_s=0.0, decode_request_s=0.0, decode_kv_token_s=0.0
)


def simulated(work: Coroutine[Any, Any, T]) -> T:
    async def main(loop: SimLoop) -> T:
        result = await work
        assert not loop.uncaught
        return result

    return run(main, 0)


def config(**settings: Any) -> MockerConfig:
    return MockerConfig(**{"block_size": 4, "max_context_length": 200, **settings})


async def read(engine: MockerEngine, asked: PreprocessedRequest, context: Context | None = None) -> list[EngineOutput]:
    async with aclosing(engine.generate(asked, context or Context())) as outputs:
        return [output async for output in outputs]


def tokens_of(outputs: Sequence[EngineOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def test_every_step_takes_the_time_that_the_model_says() -> None:
    async def work() -> list[float]:
        engine, times, loop = MockerEngine(config(), timing=TIMING), [], asyncio.get_running_loop()
        begin = loop.time()
        async with aclosing(engine.generate(request([1, 2, 3], 4), Context())) as outputs:
            async for _ in outputs:
                times.append(loop.time() - begin)
        await engine.close()
        return times

    assert simulated(work()) == pytest.approx([1, 2, 3, 4])


def test_what_was_computed_with_another_salt_or_adapter_is_not_found() -> None:
    async def work() -> list[list[int]]:
        engine, found = MockerEngine(config()), []
        for salt, adapter in ((None, None), ("a", None), (None, "a"), ("a", "a"), ("b", "a")):
            asked = request(list(range(30)), 2)
            asked.cache_salt, asked.lora_name = salt, adapter
            found.append([cached_in(await read(engine, asked)) for _ in range(2)])
        assert len(engine.block_hashes()) == 5 * 7
        await engine.close()
        return found

    assert simulated(work()) == [[0, 28]] * 5


def test_a_salt_that_is_no_text_is_refused_and_ends_nothing() -> None:
    async def work() -> list[int]:
        engine, asked = MockerEngine(config()), request(list(range(30)), 2)
        asked.cache_salt = "\ud800"
        with pytest.raises(InvalidArgument, match="cache namespace"):
            await read(engine, asked)
        tokens = tokens_of(await read(engine, request(list(range(30)), 2)))
        await engine.close()
        return tokens

    assert simulated(work()) == expected(request(list(range(30)), 2))


def cached_in(outputs: Sequence[EngineOutput]) -> int:
    usage = outputs[-1].completion_usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens


def test_the_speedup_ratio_divides_it() -> None:
    async def took(**settings: float) -> float:
        engine, loop = MockerEngine(config(**settings), timing=TIMING), asyncio.get_running_loop()
        begin = loop.time()
        await read(engine, request([1, 2, 3], 5))
        await engine.close()
        return loop.time() - begin

    assert simulated(took(speedup_ratio=10)) == pytest.approx(0.5)
    assert simulated(took(decode_speedup_ratio=4)) == pytest.approx(2)
    assert simulated(took(decode_speedup_ratio=0)) == pytest.approx(1)
    assert simulated(took(speedup_ratio=0)) == 0


def test_a_hundred_engines_with_a_thousand_requests_say_what_is_expected_in_virtual_time() -> None:
    async def work() -> float:
        rng, loop = random.Random(5), asyncio.get_running_loop()
        engines = [MockerEngine(config(max_num_seqs=8)) for _ in range(100)]
        begin = loop.time()

        async def ask(engine: MockerEngine) -> None:
            await asyncio.sleep(rng.uniform(0, 60))
            asked = request(rng.choices(range(9), k=rng.randint(1, 50)), rng.randint(1, 20))
            assert tokens_of(await read(engine, asked)) == expected(asked)

        async with asyncio.TaskGroup() as tasks:
            for index in range(1000):
                tasks.create_task(ask(engines[index % 100]))
        for engine in engines:
            engine.check()
            assert engine.num_requests_running + engine.num_requests_waiting == 0
        return loop.time() - begin

    assert 50 < simulated(work()) < 70


def test_whoever_leaves_at_whatever_moment_the_others_get_their_answers_and_no_block_is_lost() -> None:
    async def work(seed: int) -> None:
        rng = random.Random(seed)
        sink = NaiveSink(4)
        engine = MockerEngine(
            config(num_gpu_blocks=50, max_num_seqs=6, max_num_batched_tokens=24), kv_event_sinks=[sink]
        )

        async def ask() -> None:
            asked = request([*[3] * rng.randint(0, 30), rng.randint(0, 9)], rng.randint(1, 40))
            context = Context()
            await asyncio.sleep(rng.uniform(0, 1))
            reading = asyncio.ensure_future(read(engine, asked, context))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0, 0.3))
                (context.stop_generating if rng.random() < 0.5 else reading.cancel)()
            await asyncio.wait([reading])
            if not reading.cancelled():
                outputs = reading.result()
                said = tokens_of(outputs)
                assert said == expected(asked)[: len(said)]
                assert outputs[-1].finish_reason == ("length" if len(said) == len(expected(asked)) else "cancelled")
            engine.check()
            assert sink.block_hashes == engine.block_hashes()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(40):
                tasks.create_task(ask())
        (stats,) = engine.stats()
        assert (stats.num_requests_running, stats.num_requests_waiting, stats.kv_used_blocks) == (0, 0, 0)

    for seed in range(10):
        simulated(work(seed))


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 12])
async def test_after_the_first_token_they_come_so_many_at_a_time(max_tokens: int) -> None:
    engine = MockerEngine(config(speedup_ratio=0, stream_interval=4))
    asked = request([1, 2, 3], max_tokens)
    outputs = await read(engine, asked)
    assert tokens_of(outputs) == expected(asked)
    assert [len(output.token_ids) for output in outputs] == {1: [1], 2: [1, 1], 5: [1, 4], 12: [1, 4, 4, 3]}[max_tokens]
    await engine.close()


async def test_the_first_and_the_last_output_say_how_much_was_cached() -> None:
    engine = MockerEngine(config(speedup_ratio=0))
    await read(engine, request(range(20), 1))
    outputs = await read(engine, request([*range(18), 99], 3))
    usages = [output.completion_usage for output in outputs]
    assert usages[1] is None
    for usage, num_answer in ((usages[0], 1), (usages[2], 3)):
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == 16
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (19, num_answer, 19 + num_answer)
    await engine.close()


async def test_each_rank_has_a_cache_of_its_own_and_a_request_may_choose() -> None:
    sinks = [NaiveSink(4), NaiveSink(4)]
    engine = MockerEngine(config(speedup_ratio=0, dp_size=2), kv_event_sinks=sinks)
    for dp_rank, length in ((0, 8), (1, 12)):
        asked = request(range(length), 1)
        asked.dp_rank = dp_rank
        await read(engine, asked)
    assert [len(sink.block_hashes) for sink in sinks] == [2, 3]
    assert [stats.kv_cached_blocks for stats in engine.stats()] == [2, 3]
    assert engine.block_hashes(1) == sinks[1].block_hashes
    wrong = request([1])
    wrong.dp_rank = 2
    with pytest.raises(InvalidArgument, match="dp_rank=2 is none of the 2 ranks"):
        await read(engine, wrong)
    await engine.close()


async def test_a_request_without_a_rank_goes_where_the_fewest_are() -> None:
    engine = MockerEngine(config(speedup_ratio=0, dp_size=3))
    await asyncio.gather(*(read(engine, request([index], 5)) for index in range(6)))
    assert [stats.prompt_tokens for stats in engine.stats()] == [2, 2, 2]
    await engine.close()


async def test_the_cache_can_be_cleared_while_nobody_uses_it() -> None:
    sink = NaiveSink(4)
    engine = MockerEngine(config(speedup_ratio=0), kv_event_sinks=[sink])
    await read(engine, request(range(20), 1))
    assert engine.clear_kv_blocks()
    assert (sink.events, sink.block_hashes, engine.block_hashes()) == (["stored", "cleared"], set(), frozenset())
    async with aclosing(engine.generate(request(range(20), None), Context())) as running:
        await anext(running)
        assert not engine.clear_kv_blocks()
    await engine.close()


async def test_a_listener_that_fails_ends_the_engine_and_every_request_hears_of_it() -> None:
    class Failing(NaiveSink):
        def stored(self, *arguments: Any, **keywords: Any) -> None:
            raise RuntimeError("no room for events")

    engine = MockerEngine(config(speedup_ratio=0), kv_event_sinks=[Failing(4)])
    with pytest.raises(EngineShutdown, match="no room for events"):
        await read(engine, request(range(20), 1))
    assert "no room for events" in str(await engine.ended())
    with pytest.raises(EngineShutdown):
        await read(engine, request([1], 1))
    await engine.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"block_size": 0}, "block_size=0"),
        ({"speedup_ratio": float("nan")}, "speedup_ratio=nan"),
        ({"decode_speedup_ratio": -1}, "decode_speedup_ratio=-1"),
        ({"dp_size": 5000}, "dp_size=5000 must be from 1 to 1024"),
        ({"max_num_batched_tokens": 10}, "max_num_seqs=256"),
        ({"num_gpu_blocks": 10}, "raise num_gpu_blocks"),
        ({"enable_chunked_prefill": False, "max_context_length": 10_000}, "enable_chunked_prefill"),
    ],
    ids=str,
)
def test_settings_with_which_a_request_could_not_run_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**settings)


def test_there_is_one_listener_for_each_rank() -> None:
    with pytest.raises(ConfigError, match="1 kv_event_sinks for 2 ranks"):
        MockerEngine(config(dp_size=2), kv_event_sinks=[NaiveSink(4)])
