"""What a route reads of a request: the model, and a prompt whose beginnings can be compared.

With a tokenizer those are the model's own tokens, as the server will compute them: what its KV events speak of.
Without one, four bytes of text stand for a token, which is about how many there are in one; equal beginnings stay
equal, and that is all that counts. A body that cannot be read is the server's to refuse: it is routed by load.
"""

from __future__ import annotations

import logging
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import msgspec
from xxhash import xxh3_128_digest

from dynamo._core.errors import DynamoError
from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor

logger = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
#: Longer prompts are compared up to here.
TOKENS_MAX = 1 << 18
BYTES_PER_WORD = 4
TEXT_BYTES_MAX = TOKENS_MAX * BYTES_PER_WORD
#: A field of more values is not read: no model has so long a context, and to make objects of them takes long.
VALUES_MAX = 1 << 20

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is known of a request."""

    model: str | None = None
    #: Tokens, or what stands for them; None: nobody knows.
    token_ids: Sequence[int] | None = None
    #: What keeps equal tokens from being the same in a cache: the adapter, or the model.
    lora_name: str | None = None


class Prompts(Protocol):
    """Reads requests."""

    #: How often a prompt was known by its tokens, by its text, or not at all.
    counts: Counter[str]

    async def read(self, path: str, fields: Fields) -> Prompt:
        """Return what is known of a request to a path."""

    def close(self) -> None:
        """Read no more."""


_ABSENT = msgspec.Raw()


class _Body(msgspec.Struct):
    """What is looked at of a body, as it stands there; the rest is skipped."""

    model: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    chat_template: msgspec.Raw = _ABSENT
    chat_template_kwargs: msgspec.Raw = _ABSENT
    add_generation_prompt: msgspec.Raw = _ABSENT
    continue_final_message: msgspec.Raw = _ABSENT
    cache_salt: msgspec.Raw = _ABSENT
    nvext: msgspec.Raw = _ABSENT


def fields_of(body: bytes) -> Fields:
    """Return the fields of a request's body that matter here; none if it has none that can be read."""
    try:
        found = msgspec.structs.asdict(msgspec.json.decode(body, type=_Body))
        texts = {name: bytes(raw) for name, raw in found.items() if raw is not _ABSENT}
        return {name: msgspec.json.decode(text) for name, text in texts.items() if _num_values(text) <= VALUES_MAX}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _num_values(text: bytes) -> int:
    """How many values there are, or more: each but the first follows a comma or an opening bracket."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


class NoPrompts:
    """For routers that look at loads only."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    async def read(self, path: str, fields: Fields) -> Prompt:
        return Prompt(_text_of(fields, "model"))

    def close(self) -> None:
        """There is nothing to end."""


class TextPrompts:
    """Compares prompts as text."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    async def read(self, path: str, fields: Fields) -> Prompt:
        model = _text_of(fields, "model")
        words = _chat_words(fields) if path == CHAT else _completion_words(fields)
        self.counts["none" if words is None else "text"] += 1
        return Prompt(model, words, model)

    def close(self) -> None:
        """There is nothing to end."""


class TokenPrompts:
    """Makes tokens of prompts as the servers do."""

    def __init__(self, preprocessor: Preprocessor, is_adapter: Callable[[str], bool]) -> None:
        """The blocks of an adapter are other ones than those of its model, so it must be known which names are some."""
        self.counts: Counter[str] = Counter()
        self._preprocessor = preprocessor
        self._is_adapter = is_adapter

    @classmethod
    async def load(cls, model_path: str, is_adapter: Callable[[str], bool]) -> TokenPrompts:
        """Load a tokenizer and its chat template. Raises `DynamoError` if there is none."""
        return cls(await Preprocessor.load(ModelCard.from_local_path(model_path)), is_adapter)

    async def read(self, path: str, fields: Fields) -> Prompt:
        model = _text_of(fields, "model")
        token_ids: Sequence[int] | None = None
        try:
            token_ids = await self._chat(fields) if path == CHAT else await self._completion(fields)
        except DynamoError as error:
            # The server says so, too, if it does not take it either.
            logger.info("the tokens of a prompt are not known, and it is routed by load: %s", error)
        self.counts["none" if token_ids is None else "tokens"] += 1
        lora_name = model if model is not None and self._is_adapter(model) else None
        return Prompt(model, None if token_ids is None else token_ids[:TOKENS_MAX], lora_name)

    def close(self) -> None:
        self._preprocessor.close()

    async def _chat(self, fields: Fields) -> Sequence[int] | None:
        messages, tools = fields.get("messages"), fields.get("tools")
        template_args = fields.get("chat_template_kwargs")
        # A template of the request's own, and words put into the model's mouth, are not rendered here.
        if fields.get("chat_template") is not None or fields.get("continue_final_message"):
            return None
        if not _are_mappings(messages) or (tools and not _are_mappings(tools)):
            return None
        request = await self._preprocessor.chat(
            messages,
            tools=tools if _are_mappings(tools) else None,
            add_generation_prompt=fields.get("add_generation_prompt", True) is not False,
            template_args=template_args if isinstance(template_args, dict) else None,
        )
        return request.token_ids

    async def _completion(self, fields: Fields) -> Sequence[int] | None:
        prompt = _first_prompt(fields)
        return None if prompt is None else (await self._preprocessor.completion(prompt)).token_ids


def words_of(text: bytes) -> Sequence[int]:
    """Return what stands for the tokens of a text: equal beginnings give equal ones."""
    compared = text[:TEXT_BYTES_MAX]
    words = array("I", compared + b"\0" * (-len(compared) % BYTES_PER_WORD))
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _chat_words(fields: Fields) -> Sequence[int] | None:
    """What stands for a conversation, such that one that goes on begins as the former."""
    messages, tools = fields.get("messages"), fields.get("tools")
    if not isinstance(messages, list) or not messages:
        return None
    parts = [msgspec.json.encode(tools)] if tools else []
    parts += [_message_text(message) for message in messages]
    return words_of(b"\n".join(parts))


def _completion_words(fields: Fields) -> Sequence[int] | None:
    prompt = _first_prompt(fields)
    return words_of(prompt.encode(errors="replace")) if isinstance(prompt, str) else prompt


def _message_text(message: object) -> bytes:
    """A message as text; what is no text in it, an image for example, as a digest."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(message, dict) and isinstance(content, list):
        message = {**message, "content": [_part(part) for part in content]}
    return msgspec.json.encode(message)


def _part(part: object) -> object:
    if isinstance(part, dict) and part.get("type") != "text":
        return xxh3_128_digest(msgspec.json.encode(part)).hex()
    return part


def _first_prompt(fields: Fields) -> str | list[int] | None:
    """The prompt of a completion, in words or in tokens; of several, the first."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        return None
    token_ids = prompt[:TOKENS_MAX]
    return token_ids if token_ids and all(type(one) is int and 0 <= one < 1 << 32 for one in token_ids) else None


def _text_of(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value else None


def _are_mappings(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
