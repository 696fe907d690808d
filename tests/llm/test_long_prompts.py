"""A prompt that is far over the context costs little: it is refused before it is read to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from dynamo._core.errors import InvalidArgument
from dynamo.llm._limits import COUNTED_CHARS
from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor
from dynamo.llm._tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Iterator[Tokenizer]:
    loaded = Tokenizer.for_card(ModelCard.from_local_path(tiny_model))
    yield loaded
    loaded.close()


class Counting(Tokenizer):
    """Counts the characters that it encodes."""

    num_chars = 0

    def encode_now(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.num_chars += len(text)
        return super().encode_now(text, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("word", ["a b ", "\u00e4\u20ac ", "x", "\u20ac", "\U0001f642\n"])
async def test_a_prompt_far_over_the_context_is_refused_without_reading_all_of_it(tiny_model: Path, word: str) -> None:
    card = ModelCard.from_local_path(tiny_model)
    tokenizer = Counting.for_card(card)
    assert isinstance(tokenizer, Counting)
    preprocessor = Preprocessor(card, tokenizer)
    text = word * (2**21 // len(word))
    for asking in (preprocessor.completion(text), preprocessor.chat([{"role": "user", "content": text}])):
        with pytest.raises(
            InvalidArgument, match="over 4096 tokens, but this model's context length is 4096"
        ) as caught:
            await asking
        assert caught.value.details == {"context_length": 4096}
    assert tokenizer.num_chars < len(text)
    preprocessor.close()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("aeirst \n\u00e4\u20ac\U0001f642", min_size=1, max_size=40), min_size=1, max_size=4))
def test_no_text_is_said_to_have_more_tokens_than_it_has(tokenizer: Tokenizer, words: list[str]) -> None:
    text = (" ".join(words) * 200_000)[:200_000]
    assert not tokenizer.has_more(text, len(tokenizer.encode_now(text, add_special_tokens=False)))


AWKWARD = [
    AddedToken("<|user|>", rstrip=True),  # as Phi-3 has it: whatever space is after it belongs to it
    AddedToken("<mask>", lstrip=True),  # as RoBERTa has it
    AddedToken("-=#" * 500),
]


@pytest.mark.parametrize(
    "text",
    [
        "<|user|>" + " " * 300_000,
        "x" * (COUNTED_CHARS - 5) + "<|user|>" + "\n" * 60_000 + "x",
        " " * 300_000 + "<mask>",
        "x" * (COUNTED_CHARS - 60_000) + " " * 60_000 + "<mask>",
        "x" * (COUNTED_CHARS - 60_000) + " " * 59_997 + "<mask>" + "x",
        "-=#" * 500 * 200,
    ],
)
def test_nor_is_one_whose_added_tokens_are_cut_in_two(tiny_model: Path, text: str) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    backend.add_special_tokens(AWKWARD)
    tokenizer = Tokenizer(backend)
    assert not tokenizer.has_more(text, len(tokenizer.encode_now(text, add_special_tokens=False)))
    # It is counted all the same.
    assert tokenizer.has_more("a b " * 200_000, 4096)
    tokenizer.close()
