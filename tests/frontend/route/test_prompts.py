"""How prompts are compared: equal beginnings stay equal, and different ones differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.frontend._route.prompts import (
    CHAT,
    COMPLETIONS,
    TEXT_BYTES_MAX,
    TOKENS_MAX,
    VALUES_MAX,
    Fields,
    TextPrompts,
    TokenPrompts,
    fields_of,
    words_of,
)
from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor

USER = {"role": "user", "content": "Where is the library, and when does it open on Sundays?"}
ANSWER = {"role": "assistant", "content": "It is in the old town."}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
BLOCK = 16


async def words(fields: Fields, path: str = CHAT) -> list[int]:
    token_ids = (await TextPrompts().read(path, fields)).token_ids
    assert token_ids is not None
    return list(token_ids)


def agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_words_agree_exactly_as_far_as_whole_words_of_text_do(common: bytes, one: bytes, other: bytes) -> None:
    first, second = common + one, common + other
    same = agreeing(first, second)
    assert agreeing(words_of(first), words_of(second)) >= same // 4
    if first[: 4 * (same // 4 + 1)].ljust(4, b"\0") != second[: 4 * (same // 4 + 1)].ljust(4, b"\0"):
        assert agreeing(words_of(first), words_of(second)) <= same // 4 + 1


def test_a_text_that_is_too_long_is_compared_up_to_a_limit() -> None:
    assert len(words_of(b"x" * (TEXT_BYTES_MAX + 5))) == TEXT_BYTES_MAX // 4


async def test_a_conversation_that_goes_on_begins_as_before() -> None:
    before = await words({"messages": [USER]})
    after = await words({"messages": [USER, ANSWER, USER]})
    assert agreeing(before, after) >= len(before) - 1


async def test_tools_stand_before_the_conversation() -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    one = await words({"messages": [USER], "tools": [tool]})
    assert agreeing(one, await words({"messages": [ANSWER], "tools": [tool]})) > 10
    assert agreeing(one, await words({"messages": [USER]})) == 0


async def test_an_image_counts_by_what_it_is_and_not_by_its_size() -> None:
    with_image = {"role": "user", "content": [{"type": "text", "text": "See:"}, IMAGE]}
    other = {"role": "user", "content": [{"type": "text", "text": "See:"}, {**IMAGE, "detail": "low"}]}
    one, again, another = [await words({"messages": [each]}) for each in (with_image, dict(with_image), other)]
    assert one == again != another
    assert len(one) < 100


@pytest.mark.parametrize("prompt", ["some words", ["some words", "more"], [1, 2, 3], [[1, 2, 3], [4]]])
async def test_every_form_of_a_completion_is_read(prompt: object) -> None:
    found = await words({"prompt": prompt}, COMPLETIONS)
    assert found == ([1, 2, 3] if "some words" not in str(prompt) else list(words_of(b"some words")))


@pytest.mark.parametrize(
    "fields",
    [{}, {"prompt": 1}, {"prompt": []}, {"prompt": [-1]}, {"prompt": [1, "a"]}, {"prompt": [1 << 32]}, {"prompt": {}}],
)
async def test_what_is_no_prompt_is_not_compared(fields: Fields) -> None:
    prompts = TextPrompts()
    assert (await prompts.read(COMPLETIONS, fields)).token_ids is None
    assert prompts.counts == {"none": 1}


async def test_tokens_are_compared_up_to_the_limit_of_a_text() -> None:
    token_ids = [7] * (TOKENS_MAX + 5)
    assert await words({"prompt": token_ids}, COMPLETIONS) == token_ids[:TOKENS_MAX]
    assert TEXT_BYTES_MAX == 4 * TOKENS_MAX


def test_a_field_of_more_values_than_any_prompt_has_is_not_read_and_the_others_are() -> None:
    prompt = b"[" + b"1," * VALUES_MAX + b"1]"
    assert fields_of(b'{"model": "m", "prompt": ' + prompt + b', "cache_salt": "s"}') == {
        "model": "m",
        "cache_salt": "s",
    }


def test_what_does_not_matter_is_not_read() -> None:
    assert fields_of(b'{"model": "m", "stream": true, "stop": ["x"]}') == {"model": "m"}


@pytest.mark.parametrize("depth", range(980, 992))
async def test_a_body_nested_however_deeply_is_read_or_routed_by_load(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    fields = fields_of(b'{"messages": [{"role": "user", "content": {"a": ' + nested + b"}}]}")
    await TextPrompts().read(CHAT, fields)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"1", b"[" * 100_000])
def test_a_body_that_is_no_object_has_no_fields(body: bytes) -> None:
    assert fields_of(body) == {}


async def test_models_do_not_share_prompts() -> None:
    prompt = await TextPrompts().read(CHAT, {"model": "m", "messages": [USER]})
    assert (prompt.model, prompt.lora_name) == ("m", "m")


@pytest.fixture
async def preprocessor(tiny_model: Path) -> Preprocessor:
    return await Preprocessor.load(ModelCard.from_local_path(tiny_model))


async def test_with_a_tokenizer_they_are_the_models_own_tokens(preprocessor: Preprocessor) -> None:
    prompts = TokenPrompts(preprocessor, lambda name: name == "adapter")
    chat = await prompts.read(CHAT, {"model": "adapter", "messages": [USER, ANSWER, USER]})
    assert chat.token_ids == (await preprocessor.chat([USER, ANSWER, USER])).token_ids
    assert chat.lora_name == "adapter"
    plain = await prompts.read(COMPLETIONS, {"model": "tiny", "prompt": "some words"})
    assert plain.token_ids == (await preprocessor.completion("some words")).token_ids
    assert plain.lora_name is None
    assert prompts.counts == {"tokens": 2}
    prompts.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"messages": [USER], "tools": "all"},
        {"messages": [USER], "chat_template": "{{ messages }}"},
        {"messages": [USER, ANSWER], "continue_final_message": True},
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        {"messages": [{"role": "user", "content": "long " * 100_000}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
    ],
)
async def test_what_cannot_be_rendered_here_is_routed_by_load(preprocessor: Preprocessor, fields: Fields) -> None:
    prompts = TokenPrompts(preprocessor, lambda _: False)
    assert (await prompts.read(CHAT, fields)).token_ids is None
    assert prompts.counts == {"none": 1}
    prompts.close()
