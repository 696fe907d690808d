"""What an answer must be, word for word, and whether it is.

The expected text is decoded in one piece from the tokens that the oracle must give, by the tokenizer's own
library. So it owes nothing to the code that cuts, joins and decodes streams, and one token that is lost,
doubled, foreign or in another place makes a difference.
"""

from __future__ import annotations

import functools

from tests.oracle import tokens
from tests.system.streams import MODEL, Answer
from tests.tiny_model import tiny_model_path

from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor
from dynamo.llm._tokenizer import Tokenizer

#: So much of two texts is shown around the place where they part.
SHOWN_CHARS = 20


@functools.cache
def _preprocessor() -> Preprocessor:
    card = ModelCard.from_local_path(str(tiny_model_path()), name=MODEL)
    return Preprocessor(card, Tokenizer.for_card(card))


def prompt_token_ids(prompt: str) -> list[int]:
    """The token ids of a conversation of one message."""
    preprocessor = _preprocessor()
    text = preprocessor.render([{"role": "user", "content": prompt}])
    return preprocessor.tokenizer.encode_now(text, add_special_tokens=False)


def expected_text(prompt: str, num_tokens: int) -> str:
    """The text of the first `num_tokens` tokens of the answer to a prompt."""
    return _preprocessor().tokenizer.decode(tokens(prompt_token_ids(prompt), num_tokens))


def why_not_exact(answer: Answer, prompt: str, num_tokens: int) -> str | None:
    """Say what is wrong with an answer that must be complete; None if nothing is."""
    if answer.status != 200:
        return f"status {answer.status}: {answer.error}"
    if answer.error is not None:
        return f"it ended with an error after {len(answer.text)} characters: {answer.error}"
    if (expected := expected_text(prompt, num_tokens)) != answer.text:
        return _difference(expected, answer.text)
    if not answer.done:
        return "it just ended, without [DONE]"
    if answer.finish_reasons != ["length"]:
        return f"its finish reasons are {answer.finish_reasons}"
    counts = [(usage.prompt_tokens, usage.completion_tokens) for usage in answer.usages]
    if counts != [(len(prompt_token_ids(prompt)), num_tokens)]:
        return f"its usage is {answer.usages}"
    if len(answer.ids) != 1:
        return f"its chunks have the ids {answer.ids}"
    return None


def assert_exact(answer: Answer, prompt: str, num_tokens: int) -> None:
    """Fail unless the answer is complete and as it must be."""
    reason = why_not_exact(answer, prompt, num_tokens)
    assert reason is None, f"the answer to {prompt!r}: {reason}"


def _difference(expected: str, text: str) -> str:
    place = next((n for n, (one, other) in enumerate(zip(expected, text, strict=False)) if one != other), None)
    if place is None:
        return f"it has {len(text)} characters instead of {len(expected)}"
    here = slice(place, place + SHOWN_CHARS)
    return f"from character {place} on it is {text[here]!r} instead of {expected[here]!r}"
