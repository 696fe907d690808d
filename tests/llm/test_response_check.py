"""Workers that break their word: what the client gets, what is counted, and what is told."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.scene import BOTH, DEADLINE_S, MODEL, Script, ScriptedEngine, World, load_tokenizer, says

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, Disconnected, DynamoError, ProtocolError, StreamIncomplete
from dynamo._core.virtual_clock import run_virtually
from dynamo.llm import (
    CompletionUsage,
    EngineOutput,
    ModelInput,
    OutputOptions,
    PreprocessedRequest,
    PromptTokensDetails,
    StopConditions,
    register_llm,
)
from dynamo.llm._choice import Choice, Delta
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest, parse
from dynamo.llm._response_check import TOLD_EVERY_S, ContractStats, ResponseCheck, Violation, is_strict
from dynamo.llm._tokenizer import Tokenizer

Json = dict[str, Any]
CHAT: Json = {"model": MODEL, "messages": [{"role": "user", "content": "How late is it?"}]}
INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What frontends are where nobody has said otherwise."""
    monkeypatch.setenv("DYN_STRICT_CONTRACTS", "0")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return asyncio.run(load_tokenizer(tiny_model))


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, {"model": MODEL, "prompt": [1, 2, 3], "max_tokens": 4, **fields})


def usage(
    completion_tokens: int, *, cached: int | None = None, total: int | None = None, prompt: int = 3
) -> CompletionUsage:
    details = None if cached is None else PromptTokensDetails(cached)
    return CompletionUsage(prompt, completion_tokens, prompt + completion_tokens if total is None else total, details)


def counted(models: ModelManager) -> dict[str, int]:
    """What was wrong, and how often."""
    found = models.migrations.contracts.violations.items()
    return {kind.value: count for (model, kind), count in found if count and model == MODEL}


async def answered(models: ModelManager, request: OpenAIRequest) -> Json:
    """Return the whole answer, which is what the stream of it adds up to."""
    pipeline = models.pipeline(MODEL)
    async with asyncio.timeout(DEADLINE_S):
        whole: Json = msgspec.json.decode(await pipeline.complete(request, Context("r1")))
        async with aclosing(pipeline.stream(request, Context("r2"))) as batches:
            chunks = [msgspec.json.decode(chunk) async for batch in batches for chunk in batch]
    if isinstance(request, CompletionRequest):
        for choice in whole["choices"]:
            pieces = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
            assert "".join(piece["text"] for piece in pieces) == choice["text"]
    return whole


async def ask(script: Script, model: Path, request: OpenAIRequest) -> tuple[Json, dict[str, int]]:
    """Return the answer, and what was wrong with each of the two that it takes to ask for it both ways."""
    world, engine = World(), ScriptedEngine(script)
    async with world.worker(engine, model), world.models() as models:
        whole = await answered(models, request)
        async with asyncio.timeout(DEADLINE_S):
            await engine.closed.wait()
        assert all(count % 2 == 0 for count in counted(models).values())
        return whole, {kind: count // 2 for kind, count in counted(models).items()}


async def refused(script: Script, model: Path, request: OpenAIRequest) -> tuple[DynamoError, dict[str, int]]:
    world = World()
    async with world.worker(ScriptedEngine(script), model), world.models() as models:
        with pytest.raises(DynamoError) as caught:
            await answered(models, request)
        return caught.value, counted(models)


async def and_on(outputs: Iterable[EngineOutput]) -> AsyncIterator[EngineOutput]:
    """Outputs, the last of them for ever."""
    output = EngineOutput()
    for output in outputs:
        yield output
    while True:
        await asyncio.sleep(0.001)
        yield output


@pytest.mark.parametrize(
    ("outputs", "tokens", "reason", "kinds"),
    [
        ([EngineOutput([65], finish_reason="stop"), EngineOutput([66])], 1, "stop", {"after_finish"}),
        ([EngineOutput([65], finish_reason="stop")] * 2, 1, "stop", {"after_finish"}),
        ([EngineOutput([65] * 5, finish_reason="stop")], 4, "length", {"too_many_tokens"}),
        ([EngineOutput([65])] * 9, 4, "length", {"too_many_tokens"}),
        ([EngineOutput([65, 65, 65])] * 2, 4, "length", {"too_many_tokens"}),
        ([EngineOutput([65])] * 4, 4, "length", {"no_finish"}),
        ([EngineOutput([65], finish_reason="stop", completion_usage=usage(7))], 1, "stop", {"wrong_usage"}),
        ([EngineOutput([65], finish_reason="stop", completion_usage=usage(1, total=7))], 1, "stop", {"wrong_usage"}),
        ([EngineOutput([65], finish_reason="stop", completion_usage=usage(1, cached=4))], 1, "stop", {"wrong_usage"}),
        ([EngineOutput([65], finish_reason="stop", completion_usage=usage(1, cached=-1))], 1, "stop", {"wrong_usage"}),
        ([EngineOutput([65], finish_reason="stop", completion_usage=usage(1, cached=3))], 1, "stop", set()),
        ([EngineOutput([65], finish_reason="stop", completion_usage=usage(1, prompt=9))], 1, "stop", {"wrong_usage"}),
        # Wrong in all that it says, and one message.
        (
            [EngineOutput([65], finish_reason="stop", completion_usage=usage(7, prompt=9, total=1, cached=10))],
            1,
            "stop",
            {"wrong_usage"},
        ),
    ],
)
async def test_the_client_gets_its_whole_answer_if_it_can_be_had(
    tiny_model: Path, outputs: list[EngineOutput], tokens: int, reason: str, kinds: set[str]
) -> None:
    whole, wrong = await ask(says(*outputs), tiny_model, completion())
    [choice] = whole["choices"]
    assert choice["finish_reason"] == reason
    assert (whole["usage"]["completion_tokens"], whole["usage"]["total_tokens"]) == (tokens, 3 + tokens)
    assert 0 <= whole["usage"].get("prompt_tokens_details", {"cached_tokens": 0})["cached_tokens"] <= 3
    assert wrong == dict.fromkeys(kinds, 1)


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([EngineOutput([65], finish_reason="stop"), EngineOutput([65])], "after_finish"),
        ([EngineOutput([65])], "too_many_tokens"),
    ],
)
async def test_a_worker_that_does_not_end_is_ended(tiny_model: Path, outputs: list[EngineOutput], kind: str) -> None:
    _, wrong = await ask(lambda _: and_on(outputs), tiny_model, completion())
    assert wrong == {kind: 1}


@pytest.mark.parametrize(
    ("outputs", "error", "words", "kind"),
    [
        ([EngineOutput([-1])], ProtocolError, "sent -1, which is no token id: they are 0 to", "token_out_of_range"),
        ([EngineOutput([65, 2**20])], ProtocolError, "sent 1048576, which", "token_out_of_range"),
        ([EngineOutput([65], index=1)], ProtocolError, "a part of the answer 1", "wrong_index"),
        ([EngineOutput([65], log_probs=[NAN])], ProtocolError, "sent nan as a log probability", "wrong_log_probs"),
        ([EngineOutput([65], log_probs=[INF])], ProtocolError, "sent inf as a log probability", "wrong_log_probs"),
        ([EngineOutput([65], log_probs=[0.0, 0.0])], ProtocolError, "2 log probabilities for 1", "wrong_log_probs"),
        ([EngineOutput([65], log_probs=[-1.0])], StreamIncomplete, "after 1 tokens without a finish", "no_finish"),
        ([], StreamIncomplete, "without a finish reason", "no_finish"),
        ([{"token_ids": "many"}], ProtocolError, "cannot be read", "unreadable"),
        ([EngineOutput([65], log_probs=[-1.0]), 5], ProtocolError, "cannot be read", "unreadable"),
    ],
)  # fmt: skip
async def test_and_else_an_error_that_names_what_is_wrong(
    tiny_model: Path, outputs: list[EngineOutput], error: type[DynamoError], words: str, kind: str
) -> None:
    raised, wrong = await refused(says(*outputs), tiny_model, completion(logprobs=0))
    assert isinstance(raised, error)
    assert words in raised.message
    assert wrong == {kind: 1}
    if kind != "unreadable":
        assert raised.details["code"] == kind


async def test_log_probabilities_that_nobody_asked_for_do_no_harm(tiny_model: Path) -> None:
    output = EngineOutput([65], finish_reason="stop", log_probs=[NAN])
    _, wrong = await ask(says(output), tiny_model, completion())
    assert wrong == {}


async def test_a_token_that_could_not_be_is_very_unlikely(tiny_model: Path) -> None:
    output = EngineOutput([65], finish_reason="stop", log_probs=[-INF])
    whole, wrong = await ask(says(output), tiny_model, completion(logprobs=0))
    assert whole["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0]
    assert wrong == {}


async def test_what_is_too_much_has_no_log_probabilities_either(tiny_model: Path) -> None:
    output = EngineOutput([65] * 6, log_probs=[-1.0] * 6)
    whole, wrong = await ask(says(output), tiny_model, completion(logprobs=0))
    assert whole["choices"][0]["logprobs"]["token_logprobs"] == [-1.0] * 4
    assert wrong == {"too_many_tokens": 1}


async def test_a_model_may_have_more_tokens_than_its_tokenizer(
    tiny_model: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    padded = tmp_path / "padded"
    shutil.copytree(tiny_model, padded)
    config = json.loads((padded / "config.json").read_text())
    last, size = EngineOutput([65, tokenizer.vocab_size + 7], finish_reason="stop"), tokenizer.vocab_size + 8
    inner = {"vocab_size": size}
    for more in (inner, {"text_config": inner}, inner | {"text_config": {"hidden_size": 8}}):
        (padded / "config.json").write_text(json.dumps(config | more))
        whole, wrong = await ask(says(last), padded, completion())
        assert (whole["usage"]["completion_tokens"], wrong) == (2, {})
    (padded / "config.json").write_text(json.dumps(config))
    raised, _ = await refused(says(last), padded, completion())
    assert f"they are 0 to {max(tokenizer.vocab_size, config['vocab_size']) - 1}" in raised.message


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("prompt", [3, 5])
async def test_a_worker_that_goes_on_may_count_the_whole_answer_or_its_own_part(
    tiny_model: Path, count: int, prompt: int
) -> None:
    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        if not request.num_resumed_tokens:
            yield EngineOutput([65, 66], completion_usage=usage(1))
            raise Disconnected("the worker is gone")
        yield EngineOutput([67, 68], finish_reason="length", completion_usage=usage(count, prompt=prompt))

    world = World()
    async with world.worker(ScriptedEngine(script), tiny_model), world.models() as models:
        whole = msgspec.json.decode(await models.pipeline(MODEL).complete(completion(), Context("r1")))
        assert whole["usage"]["completion_tokens"] == 4
        assert counted(models) == {}


@pytest.mark.parametrize(
    "outputs",
    [
        [EngineOutput([65], finish_reason="stop"), EngineOutput([66])],
        [EngineOutput([65] * 5, finish_reason="length")],
        [EngineOutput([65] * 4)],
        [EngineOutput([65], finish_reason="stop", completion_usage=usage(7))],
    ],
)
async def test_where_tests_run_all_of_it_is_an_error(
    tiny_model: Path, outputs: list[EngineOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYN_STRICT_CONTRACTS", "true")
    raised, _ = await refused(says(*outputs), tiny_model, completion())
    assert isinstance(raised, ProtocolError | StreamIncomplete)


def test_the_switch_is_true_or_false() -> None:
    assert not is_strict({})
    assert is_strict({"DYN_STRICT_CONTRACTS": "yes"})
    with pytest.raises(ConfigError, match="DYN_STRICT_CONTRACTS='maybe' is not true or false: use 1 or 0"):
        is_strict({"DYN_STRICT_CONTRACTS": "maybe"})


async def test_every_kind_is_counted_from_0(tiny_model: Path) -> None:
    world = World()
    async with world.worker(ScriptedEngine(says()), tiny_model), world.models() as models:
        violations = models.migrations.contracts.violations
        assert violations == {(MODEL, kind): 0 for kind in Violation}


class Worker:
    """Somebody who answers."""

    instance_id = 0xABC


def test_the_log_says_it_once_a_minute_with_the_worker_and_the_request(caplog: pytest.LogCaptureFixture) -> None:
    async def minutes() -> None:
        check = ResponseCheck(ContractStats(strict=False), MODEL, "r77")
        check.source = Worker()
        for _ in range(90):
            check.tolerate(Violation.WRONG_USAGE, "counts 7 tokens, and has sent 1")
            await asyncio.sleep(1.0)

    run_virtually(minutes())
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "wrong_usage, 1 times" in lines[0]
    assert f"wrong_usage, {TOLD_EVERY_S:.0f} times" in lines[1]
    assert all("instance abc, in request r77, counts 7 tokens" in line for line in lines)


OUTPUTS = st.lists(
    st.builds(
        EngineOutput,
        st.lists(st.integers(-1, 80) | st.just(2**31), max_size=3),
        st.sampled_from([0, 0, 0, 0, 0, 0, 1]),
        st.sampled_from([None, None, None, "stop", "length", "error", "cancelled"]),
        st.none() | st.lists(st.floats(), max_size=3),
        completion_usage=st.none() | st.builds(usage, st.integers(0, 9), cached=st.none() | st.integers(-1, 9)),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=300)
@given(OUTPUTS, st.none() | st.integers(1, 6), st.none() | st.just(0))
def test_whatever_a_worker_says_the_answer_is_whole_or_an_error(
    tokenizer: Tokenizer, outputs: list[EngineOutput], max_tokens: int | None, logprobs: int | None
) -> None:
    async def push() -> None:
        request = PreprocessedRequest(
            MODEL, [1, 2, 3], StopConditions(max_tokens=max_tokens, stop=["@"]), eos_token_ids=[2],
            output_options=OutputOptions(logprobs=logprobs),
        )  # fmt: skip
        check = ResponseCheck(ContractStats(strict=False), MODEL, "r1")
        choice = Choice(0, request, tokenizer, check, tokenizer.vocab_size)
        deltas: list[Delta | None] = []
        try:
            for output in outputs:
                deltas.append(choice.push(output))
                if choice.cut:
                    break
            else:
                deltas.append(choice.end())
        except DynamoError:
            return
        shown = [delta for delta in deltas if delta is not None]
        assert [delta.finish_reason for delta in shown[:-1]] == [None] * (len(shown) - 1)
        assert shown[-1].finish_reason in ("stop", "length")
        assert max_tokens is None or choice.num_tokens <= max_tokens
        assert choice.cached_tokens is None or 0 <= choice.cached_tokens <= 3
        for delta in shown:
            assert all(math.isfinite(one.logprob) for one in delta.logprobs or ())

    asyncio.run(push())


def delta(reason: str | None = None, index: int = 0, **fields: Any) -> Json:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": reason}]}


@asynccontextmanager
async def text_worker(model: Path, chunks: list[Json], *, goes_on: bool = False) -> AsyncIterator[ModelManager]:
    """A worker that takes text and says this; with `goes_on`, the last of it for ever."""
    world = World()

    async def generate(body: Json) -> AsyncIterator[Json]:
        for chunk in chunks:
            yield chunk
        while goes_on:
            await asyncio.sleep(0.001)
            yield chunks[-1]

    async with world.runtime() as runtime:
        at = runtime.endpoint("test.text.generate")
        await at.serve(generate)
        await register_llm(ModelInput.Text, BOTH, at, str(model), MODEL)
        async with world.models() as models:
            yield models


SAID: list[Json] = [delta(content="hi"), delta("stop")]


@pytest.mark.parametrize("goes_on", [False, True])
async def test_what_a_worker_that_takes_text_says_after_a_finish_is_left_out(tiny_model: Path, goes_on: bool) -> None:
    async with text_worker(tiny_model, [*SAID, delta(content="more")], goes_on=goes_on) as models:
        whole = await answered(models, parse(ChatRequest, CHAT))
        [choice] = whole["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("hi", "stop")
        assert counted(models).keys() == {"after_finish"}


async def test_the_usage_that_comes_with_it_is_not(tiny_model: Path) -> None:
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    async with text_worker(tiny_model, [*SAID, delta(content="more") | {"usage": counts}]) as models:
        whole = await answered(models, parse(ChatRequest, CHAT))
        assert (whole["choices"][0]["message"]["content"], whole["usage"]) == ("hi", counts)


@pytest.mark.parametrize(
    ("chunks", "error", "kind"),
    [
        ([*SAID, delta("stop", 1)], ProtocolError, "wrong_index"),
        ([delta("stop", -1)], ProtocolError, "wrong_index"),
        ([delta(content="hi")], StreamIncomplete, "no_finish"),
        ([{"choices": 5}], ProtocolError, "unreadable"),
        ([{"choices": [{"index": 0, "delta": 5}]}], ProtocolError, "unreadable"),
        ([delta(content=5)], ProtocolError, "unreadable"),
        ([delta("stop") | {"usage": 5}], ProtocolError, "unreadable"),
        ([delta("stop") | {None: 5}], ProtocolError, "unreadable"),
    ],
)
async def test_a_worker_that_takes_text_and_breaks_its_word_is_counted(
    tiny_model: Path, chunks: list[Json], error: type[DynamoError], kind: str
) -> None:
    async with text_worker(tiny_model, chunks) as models:
        with pytest.raises(error):
            await answered(models, parse(ChatRequest, CHAT))
        assert counted(models) == {kind: 1}


async def test_a_worker_that_takes_text_answers_all_that_was_asked_for(tiny_model: Path) -> None:
    async with text_worker(tiny_model, SAID) as models:
        with pytest.raises(StreamIncomplete, match="has so ended 1 of 2 choices"):
            await answered(models, parse(ChatRequest, CHAT | {"n": 2}))
        assert counted(models) == {"no_finish": 1}
