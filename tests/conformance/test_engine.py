"""What every engine must do, run on each of them."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from dynamo._core.context import Context
from dynamo._core.errors import EngineShutdown, InvalidArgument, Overloaded
from dynamo.echo import EchoEngine
from dynamo.llm import EngineOutput, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._capabilities import KNOWN_CAPABILITIES
from dynamo.llm._messages import OutputOptions
from dynamo.mocker import MockerConfig, MockerEngine
from dynamo.transformers import TransformersEngine
from dynamo.transformers._loading import LoadedModel, load_model

DEADLINE_S = 60.0
CONTEXT_LENGTH = 512
PROMPTS = [[random.Random(seed).randrange(20, 2000) for _ in range(20 + 7 * seed)] for seed in range(8)]


class OwnedEngine(Protocol):
    """What the suite needs of an engine: the seam, an end, and who is in it."""

    def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]: ...

    async def close(self) -> None: ...

    @property
    def capabilities(self) -> Sequence[str]: ...

    @property
    def num_requests_running(self) -> int: ...

    @property
    def num_requests_waiting(self) -> int: ...


StartEngine = Callable[[int], OwnedEngine]


@functools.cache
def loaded(path: Path) -> LoadedModel:
    return load_model(str(path), device="cpu", dtype="float32", max_context_length=CONTEXT_LENGTH)


@pytest_asyncio.fixture(params=["echo", "mocker", "transformers"])
async def start(request: pytest.FixtureRequest, tiny_model: Path) -> AsyncIterator[StartEngine]:
    """Start an engine with so many places; it is closed after the test."""
    async with AsyncExitStack() as stack:

        def start_engine(max_num_seqs: int) -> OwnedEngine:
            engine: OwnedEngine
            if request.param == "echo":
                engine = EchoEngine(max_num_seqs=max_num_seqs, max_context_length=CONTEXT_LENGTH)
            elif request.param == "mocker":
                config = MockerConfig(max_num_seqs=max_num_seqs, max_context_length=CONTEXT_LENGTH, speedup_ratio=0)
                engine = MockerEngine(config)
            else:
                engine = TransformersEngine(loaded(tiny_model), max_num_seqs=max_num_seqs)
            stack.push_async_callback(engine.close)
            return engine

        yield start_engine


@pytest.fixture
def engine(start: StartEngine) -> OwnedEngine:
    return start(8)


def greedy(prompt: list[int], max_tokens: int | None = 16, **stop: object) -> PreprocessedRequest:
    """A request whose answer is always the same, and ends at `max_tokens` unless `stop` says otherwise."""
    conditions = StopConditions(max_tokens=max_tokens, **{"ignore_eos": True, **stop})  # type: ignore[arg-type]
    return PreprocessedRequest("tiny", prompt, conditions, SamplingOptions(temperature=0.0))


def outputs(
    engine: OwnedEngine, request: PreprocessedRequest, context: Context | None = None
) -> aclosing[AsyncGenerator[EngineOutput, None]]:
    return aclosing(engine.generate(request, context or Context()))


async def read(engine: OwnedEngine, request: PreprocessedRequest, context: Context | None = None) -> list[EngineOutput]:
    async with asyncio.timeout(DEADLINE_S), outputs(engine, request, context) as stream:
        return [output async for output in stream]


async def answer(engine: OwnedEngine, request: PreprocessedRequest) -> list[int]:
    return [token_id for output in await read(engine, request) for token_id in output.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - an engine has counts, not events
            await asyncio.sleep(0.001)


async def until_idle(engine: OwnedEngine) -> None:
    await until(lambda: engine.num_requests_running == 0 and engine.num_requests_waiting == 0)


@pytest.mark.parametrize("max_tokens", [1, 2, 17])
async def test_an_answer_that_nothing_else_ends_has_max_tokens_tokens(engine: OwnedEngine, max_tokens: int) -> None:
    assert len(await answer(engine, greedy(PROMPTS[0], max_tokens))) == max_tokens


async def test_the_last_output_and_no_other_has_a_finish_reason(engine: OwnedEngine) -> None:
    reasons = [output.finish_reason for output in await read(engine, greedy(PROMPTS[0]))]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]


async def test_the_last_output_says_how_many_tokens_were_used(engine: OwnedEngine) -> None:
    usage = (await read(engine, greedy(PROMPTS[0], 5)))[-1].completion_usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 5, 25)


async def test_the_context_ends_an_answer_without_max_tokens(engine: OwnedEngine) -> None:
    got = await read(engine, greedy(PROMPTS[0], None))
    assert sum(len(output.token_ids) for output in got) == CONTEXT_LENGTH - len(PROMPTS[0])
    assert got[-1].finish_reason == "length"


async def test_a_stop_token_ends_the_answer_and_is_in_it(engine: OwnedEngine) -> None:
    whole = await answer(engine, greedy(PROMPTS[0]))
    stop = whole[5]
    got = await read(engine, greedy(PROMPTS[0], stop_token_ids=[stop]))
    assert [token for output in got for token in output.token_ids] == whole[: whole.index(stop) + 1]
    assert got[-1].finish_reason == "stop"


async def test_a_stop_token_does_not_end_an_answer_before_min_tokens(engine: OwnedEngine) -> None:
    stop = (await answer(engine, greedy(PROMPTS[0])))[0]
    assert len(await answer(engine, greedy(PROMPTS[0], stop_token_ids=[stop], min_tokens=9))) >= 9


async def test_a_request_that_ignores_the_end_of_sequence_goes_on_to_max_tokens(engine: OwnedEngine) -> None:
    request = greedy(PROMPTS[0], 60)
    request.eos_token_ids = await answer(engine, request)
    assert len(await answer(engine, request)) == 60


@pytest.mark.parametrize(
    "request_",
    [
        greedy([]),
        greedy([5] * CONTEXT_LENGTH),
        greedy([5] * 10 * CONTEXT_LENGTH, 1),
        greedy([5], 0),
    ],
    ids=["empty", "as long as the context", "longer", "max_tokens=0"],
)
async def test_a_request_that_cannot_be_served_is_an_invalid_argument(
    engine: OwnedEngine, request_: PreprocessedRequest
) -> None:
    with pytest.raises(InvalidArgument):
        await read(engine, request_)
    assert engine.num_requests_running + engine.num_requests_waiting == 0


@pytest.mark.parametrize(
    "sampling",
    [SamplingOptions(temperature=0.0), SamplingOptions(temperature=1.0, seed=7, presence_penalty=1.0)],
    ids=["greedy", "seeded"],
)
@pytest.mark.parametrize("at", [1, 7, 22])
async def test_an_answer_that_began_elsewhere_goes_on_as_if_nothing_had_happened(
    engine: OwnedEngine, at: int, sampling: SamplingOptions
) -> None:
    request = greedy(PROMPTS[0], 23, ignore_eos=True)
    request.sampling_options = sampling
    whole = await answer(engine, request)
    rest = greedy(PROMPTS[0] + whole[:at], 23 - at, ignore_eos=True)
    rest.sampling_options = sampling
    rest.num_resumed_tokens = at
    assert await answer(engine, rest) == whole[at:]


async def test_an_engine_does_what_it_says_that_it_can(engine: OwnedEngine) -> None:
    assert set(engine.capabilities) <= set(KNOWN_CAPABILITIES)
    request = greedy(PROMPTS[0], 7, ignore_eos=True)
    request.output_options = OutputOptions(logprobs=0)
    got = await read(engine, request)
    assert all((output.log_probs is not None) == ("logprobs" in engine.capabilities) for output in got)

    request = greedy(PROMPTS[0], 7, ignore_eos=True)
    plain = await answer(engine, request)
    # So much that a token which has come once comes again last of all.
    request.sampling_options = SamplingOptions(temperature=0.0, presence_penalty=100.0, repetition_penalty=1.5)
    assert (await answer(engine, request) != plain) == ("penalties" in engine.capabilities)

    assert "seed" in engine.capabilities
    request.sampling_options = SamplingOptions(temperature=1.0, seed=7)
    assert await answer(engine, request) == await answer(engine, request)


async def test_requests_that_run_together_get_what_each_gets_alone(engine: OwnedEngine) -> None:
    requests = [greedy(prompt, 10 + 3 * index) for index, prompt in enumerate(PROMPTS)]
    alone = [await answer(engine, request) for request in requests]
    async with asyncio.TaskGroup() as tasks:
        together = [tasks.create_task(answer(engine, request)) for request in requests]
    assert [task.result() for task in together] == alone


async def test_requests_beyond_the_places_wait_and_get_what_they_get_alone(start: StartEngine) -> None:
    engine = start(2)
    alone = [await answer(engine, greedy(prompt)) for prompt in PROMPTS]
    async with asyncio.TaskGroup() as tasks:
        together = [tasks.create_task(answer(engine, greedy(prompt))) for prompt in PROMPTS]
    assert [task.result() for task in together] == alone


async def test_a_slow_reader_misses_nothing(engine: OwnedEngine) -> None:
    expected = await answer(engine, greedy(PROMPTS[0], 40))
    async with outputs(engine, greedy(PROMPTS[0], 40)) as stream:
        got = list((await anext(stream)).token_ids)
        await answer(engine, greedy(PROMPTS[1], 100))
        async for output in stream:
            got += output.token_ids
    assert got == expected


async def test_closing_the_iterator_frees_the_place(start: StartEngine) -> None:
    engine = start(1)
    async with outputs(engine, greedy(PROMPTS[0], None)) as abandoned:
        await anext(abandoned)
    assert len(await answer(engine, greedy(PROMPTS[1], 3))) == 3


async def test_stopping_the_context_ends_the_stream_as_cancelled_and_frees_the_place(start: StartEngine) -> None:
    engine, context = start(1), Context()
    async with asyncio.timeout(DEADLINE_S), outputs(engine, greedy(PROMPTS[0], None), context) as stream:
        await anext(stream)
        context.stop_generating()
        reasons = [output.finish_reason async for output in stream]
    assert reasons[-1] == "cancelled"
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert len(await answer(engine, greedy(PROMPTS[1], 3))) == 3


async def test_a_request_whose_context_is_stopped_already_gets_no_tokens(engine: OwnedEngine) -> None:
    context = Context()
    context.kill()
    got = await read(engine, greedy(PROMPTS[0]), context)
    assert [(output.token_ids, output.finish_reason) for output in got] == [([], "cancelled")]


async def test_a_request_may_be_stopped_while_it_waits(start: StartEngine) -> None:
    engine, context = start(1), Context()
    async with outputs(engine, greedy(PROMPTS[0], None)) as running:
        await anext(running)
        waiting = asyncio.ensure_future(read(engine, greedy(PROMPTS[1]), context))
        await until(lambda: engine.num_requests_waiting == 1)
        context.stop_generating()
        assert [output.finish_reason for output in await waiting] == ["cancelled"]


async def test_a_request_may_be_abandoned_while_it_waits(start: StartEngine) -> None:
    engine = start(1)
    async with outputs(engine, greedy(PROMPTS[0], None)) as running:
        await anext(running)
        waiting = asyncio.ensure_future(read(engine, greedy(PROMPTS[1])))
        await until(lambda: engine.num_requests_waiting == 1)
        waiting.cancel()
        await asyncio.wait([waiting])
    await until_idle(engine)


async def test_many_cancelled_requests_leave_the_engine_idle_and_well(start: StartEngine) -> None:
    engine, rng = start(4), random.Random(0)
    expected = await answer(engine, greedy(PROMPTS[0]))

    async def abandon(prompt: list[int], num_outputs: int) -> None:
        async with outputs(engine, greedy(prompt, 50)) as stream:
            for _ in range(num_outputs):
                await anext(stream)

    async def cancel(prompt: list[int]) -> None:
        context = Context()
        reading = asyncio.ensure_future(read(engine, greedy(prompt, 50), context))
        for _ in range(rng.randrange(40)):
            await asyncio.sleep(0)
        (context.kill if rng.random() < 0.5 else reading.cancel)()
        await asyncio.wait([reading])

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        for _ in range(40):
            tasks.create_task(abandon(rng.choice(PROMPTS), rng.randrange(4)))
            tasks.create_task(cancel(rng.choice(PROMPTS)))
    await until_idle(engine)
    assert await answer(engine, greedy(PROMPTS[0])) == expected


async def test_a_full_queue_refuses_as_overloaded_and_serves_the_rest(start: StartEngine) -> None:
    engine = start(1)
    results = await asyncio.gather(*(answer(engine, greedy(PROMPTS[0], 2)) for _ in range(100)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    served = [result for result in results if not isinstance(result, BaseException)]
    assert refused
    assert served
    assert len(refused) + len(served) == 100


async def test_closing_the_engine_fails_what_runs_and_what_waits(start: StartEngine) -> None:
    engine = start(1)
    async with asyncio.timeout(DEADLINE_S), outputs(engine, greedy(PROMPTS[0], None)) as running:
        await anext(running)
        waiting = asyncio.ensure_future(read(engine, greedy(PROMPTS[1])))
        await until(lambda: engine.num_requests_waiting == 1)
        await engine.close()
        with pytest.raises(EngineShutdown):
            await waiting
        with pytest.raises(EngineShutdown):
            [output async for output in running]


async def test_a_closed_engine_takes_no_requests_and_may_be_closed_again(engine: OwnedEngine) -> None:
    await engine.close()
    await engine.close()
    with pytest.raises(EngineShutdown):
        await read(engine, greedy(PROMPTS[0]))
