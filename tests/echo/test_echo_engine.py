"""The echo engine: what it says, and how fast."""

from __future__ import annotations

import asyncio

import pytest

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError
from dynamo.echo import EchoEngine
from dynamo.llm import EngineOutput, PreprocessedRequest, StopConditions


async def read(engine: EchoEngine, prompt: list[int], stop: StopConditions) -> list[EngineOutput]:
    return [output async for output in engine.generate(PreprocessedRequest("echo", prompt, stop), Context())]


async def said(prompt: list[int], stop: StopConditions) -> tuple[list[int], str | None]:
    """Return the tokens of an answer and its finish reason."""
    outputs = await read(EchoEngine(), prompt, stop)
    return [token_id for output in outputs for token_id in output.token_ids], outputs[-1].finish_reason


async def test_it_says_the_prompt_back_one_token_per_output() -> None:
    outputs = await read(EchoEngine(), [5, 6, 7], StopConditions())
    assert [output.token_ids for output in outputs] == [[5], [6], [7]]
    assert [output.finish_reason for output in outputs] == [None, None, "stop"]


async def test_max_tokens_cut_the_prompt() -> None:
    assert await said([5, 6, 7], StopConditions(max_tokens=2)) == ([5, 6], "length")


async def test_more_than_the_prompt_is_the_prompt_again() -> None:
    assert await said([5, 6, 7], StopConditions(max_tokens=7, ignore_eos=True)) == ([5, 6, 7, 5, 6, 7, 5], "length")
    assert await said([5, 6, 7], StopConditions(max_tokens=7, min_tokens=5)) == ([5, 6, 7, 5, 6], "stop")


async def test_a_token_that_ends_a_model_s_answer_is_said_back_like_any_other() -> None:
    request = PreprocessedRequest("echo", [5, 2, 7], eos_token_ids=[2])
    outputs = [output async for output in EchoEngine().generate(request, Context())]
    assert [output.token_ids for output in outputs] == [[5], [2], [7]]


async def test_the_loop_turns_once_between_tokens() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await read(EchoEngine(), list(range(100)), StopConditions())
    counting.cancel()
    assert 99 <= turns <= 101


async def test_the_delay_is_between_tokens() -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await read(EchoEngine(delay_s=0.002), list(range(10)), StopConditions())
    assert loop.time() - begin >= 10 * 0.002


@pytest.mark.parametrize("settings", [{"delay_s": -1.0}, {"delay_s": float("nan")}, {"max_num_seqs": 0}], ids=str)
def test_a_setting_that_makes_no_sense_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        EchoEngine(**settings)  # type: ignore[arg-type]
