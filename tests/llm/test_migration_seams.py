"""Wherever an answer goes from one worker to the next, its text is that of an undisturbed one, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.mortal import cluster_of
from tests.llm.scene import DEADLINE_S, MODEL, load_tokenizer

from dynamo._core.context import Context
from dynamo._core.errors import EngineShutdown
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._openai import CompletionRequest, parse
from dynamo.llm._tokenizer import Tokenizer

PROMPT = [300, 301, 302]
SEAMS_MAX = 3
#: Characters of one to four bytes, some of which need several tokens.
EMOJI = "a🙂é界👩‍👩‍👧 b"
TEXTS = st.text(st.sampled_from(EMOJI) | st.characters(codec="utf-8"), min_size=1, max_size=30)


class Reciter:
    """Says a text, `size` tokens at a time; ends when it comes to a seam, and goes on where another one ended."""

    def __init__(self, token_ids: list[int], seams: set[tuple[str, int]], size: int) -> None:
        self._token_ids = token_ids
        # By request, what is still to come: one worker or another.
        self._seams = seams
        self._size = size

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncIterator[EngineOutput]:
        begin = len(request.token_ids) - len(PROMPT)
        assert request.token_ids == PROMPT + self._token_ids[:begin]
        assert request.num_resumed_tokens == begin
        # What stops is the budget or the end of the text; stop strings are the frontend's business.
        budget = begin + (request.stop_conditions.max_tokens or 0)
        end = min(len(self._token_ids), budget)
        while begin <= end:
            seam = next((at for id, at in sorted(self._seams) if id == context.request_id and at >= begin), None)
            stop = min(end, begin + self._size, end if seam is None else seam)
            if stop > begin:
                yield self._output(begin, stop, "length" if stop == budget else "stop" if stop == end else None)
            if stop == end:
                return
            if stop == seam:
                self._seams.discard((context.request_id, seam))
                raise EngineShutdown("the worker ends")
            begin = stop

    def _output(self, begin: int, stop: int, reason: Any) -> EngineOutput:
        log_probs = [-at / 8 for at in range(begin, stop)]
        return EngineOutput(self._token_ids[begin:stop], finish_reason=reason, log_probs=log_probs)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return asyncio.run(load_tokenizer(tiny_model))


async def recited(
    model_path: Path, token_ids: list[int], seams: list[int], size: int, fields: dict[str, object]
) -> tuple[object, object, int]:
    """Return the choices and the usage of the answer, and how often it moved."""
    ids = [f"r-{index}" for index in range(2)] if fields.get("n") == 2 else ["r"]
    pending = {(id, at) for id in ids for at in seams}
    engines = [Reciter(token_ids, pending, size) for _ in range(SEAMS_MAX + 1)]
    body = {"model": MODEL, "prompt": PROMPT, **fields}
    async with asyncio.timeout(DEADLINE_S), cluster_of(model_path, engines) as (_, models):
        whole = msgspec.json.decode(
            await models.pipeline(MODEL).complete(parse(CompletionRequest, body), Context("r"))  # type: ignore[arg-type]
        )
        return whole["choices"], whole["usage"], models.migrations.migrations.total()


@settings(deadline=None, max_examples=60)
@given(data=st.data(), text=TEXTS, size=st.integers(1, 3), n=st.integers(1, 2))
def test_no_seam_shows(
    tiny_model: Path, tokenizer: Tokenizer, data: st.DataObject, text: str, size: int, n: int
) -> None:
    token_ids = tokenizer.encode_now(text, add_special_tokens=False)
    seams = data.draw(st.lists(st.integers(0, len(token_ids) - 1), max_size=SEAMS_MAX, unique=True), label="seams")
    parts = st.builds(lambda at, size: text[at : at + size], st.integers(0, len(text) - 1), st.integers(1, 4))
    fields: dict[str, object] = {
        "n": n,
        "stop": data.draw(st.lists(parts, max_size=2), label="stop"),
        "max_tokens": data.draw(st.integers(1, len(token_ids) + 2), label="max_tokens"),
        "logprobs": data.draw(st.sampled_from([0, None]), label="logprobs"),
    }
    fields["min_tokens"] = data.draw(st.integers(0, fields["max_tokens"]), label="min_tokens")  # type: ignore[arg-type]
    choices, usage, _ = asyncio.run(recited(tiny_model, token_ids, [], size, fields))
    assert asyncio.run(recited(tiny_model, token_ids, seams, size, fields))[:2] == (choices, usage)


def test_a_seam_at_every_token_of_a_text_of_many_bytes_and_a_stop_string_shows_nowhere(
    tiny_model: Path, tokenizer: Tokenizer
) -> None:
    text = "Grüße 🙂👩‍👩‍👧 世界 bis STOP nicht"
    token_ids = tokenizer.encode_now(text, add_special_tokens=False)
    assert any("\ufffd" in tokenizer.decode([token_id]) for token_id in token_ids), "no character is split"
    fields: dict[str, object] = {"stop": "STOP", "max_tokens": 100, "logprobs": 0}
    choices, usage, _ = asyncio.run(recited(tiny_model, token_ids, [], 1, fields))
    assert choices[0]["text"] == "Grüße 🙂👩‍👩‍👧 世界 bis "  # type: ignore[index]
    num_moves = 0
    for at in range(len(token_ids)):
        got = asyncio.run(recited(tiny_model, token_ids, [at], 1, fields))
        assert got[:2] == (choices, usage), at
        num_moves += got[2]
    assert num_moves >= usage["completion_tokens"] - 1  # type: ignore[index]
