"""From a request in words to a request in token ids: the chat template, the tokenizer, and every check.

What leaves this module fits: the prompt and the tokens asked for are within the model's context, every limit
is kept, and what the request leaves open is filled in from the model card.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo.llm._chat_template import ChatTemplate, Message, Tool
from dynamo.llm._limits import (
    CHARS_PER_TOKEN,
    CHOICES_MAX,
    LOGPROBS_MAX,
    MESSAGES_MAX,
    PROMPT_CHARS_MAX,
    STOP_STRING_CHARS_MAX,
    STOP_STRINGS_MAX,
    STOP_TOKEN_IDS_MAX,
    TOOLS_MAX,
)
from dynamo.llm._messages import OutputOptions, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._model_card import ModelCard
from dynamo.llm._tokenizer import Tokenizer

TOOL_USE = "tool_use"


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How to generate, sample and answer; what is left open is filled in from the model card."""

    stop_conditions: StopConditions = field(default_factory=StopConditions)
    sampling_options: SamplingOptions = field(default_factory=SamplingOptions)
    output_options: OutputOptions = field(default_factory=OutputOptions)
    annotations: tuple[str, ...] = ()
    cache_salt: str | None = None


class Preprocessor:
    """Makes the requests of one model; templates and tokenizer are loaded once."""

    def __init__(self, card: ModelCard, tokenizer: Tokenizer) -> None:
        self.card = card
        self.tokenizer = tokenizer
        self._templates = {
            name: ChatTemplate(source, card.special_tokens, name=card.display_name)
            for name, source in card.chat_templates.items()
            if name in ("default", TOOL_USE)
        }

    @classmethod
    async def load(cls, card: ModelCard) -> Preprocessor:
        """Load what the card names, in a thread: a large vocabulary takes a second to read."""
        return await asyncio.to_thread(lambda: cls(card, Tokenizer.for_card(card)))

    def close(self) -> None:
        """End the tokenizer's threads."""
        self.tokenizer.close()

    async def chat(
        self,
        messages: Sequence[Message],
        options: RequestOptions | None = None,
        *,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        template_args: Mapping[str, object] | None = None,
    ) -> PreprocessedRequest:
        """Return the request for a conversation."""
        options = options or RequestOptions()
        self._check_options(options)
        _check_count("messages", len(messages), 1, MESSAGES_MAX)
        _check_count("tools", len(tools or ()), 0, TOOLS_MAX)
        template = self._template_for(tools)
        size_chars = _count_chars(messages) + _count_chars(tools)
        _check_chars(size_chars)

        def render_and_encode() -> list[int]:
            text = template.render(
                messages, tools=tools or None, add_generation_prompt=add_generation_prompt, template_args=template_args
            )
            return self._encode(text, add_special_tokens=False)  # the template brings them

        return self._request(await self.tokenizer.compute(size_chars, render_and_encode), options)

    async def completion(
        self, prompt: str | Sequence[int], options: RequestOptions | None = None
    ) -> PreprocessedRequest:
        """Return the request for a plain prompt, in words or in token ids."""
        options = options or RequestOptions()
        self._check_options(options)
        if isinstance(prompt, str):
            _check_chars(len(prompt))
            encode = partial(self._encode, prompt, add_special_tokens=True)
            return self._request(await self.tokenizer.compute(len(prompt), encode), options)
        self._check_token_ids("prompt", prompt)
        return self._request(list(prompt), options)

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] | None = None) -> str:
        """Return the text that the model sees for a conversation."""
        return self._template_for(tools).render(messages, tools=tools or None)

    def _template_for(self, tools: Sequence[Tool] | None) -> ChatTemplate:
        template = self._templates.get(TOOL_USE) if tools else None
        template = template or self._templates.get("default")
        if template is None:
            raise InvalidArgument(
                f"{self.card.display_name} has no chat template and cannot be chatted with; use completions instead"
            )
        return template

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text. One that is far too long is refused before it is read to its end."""
        context_length = self.card.context_length
        if len(text) > CHARS_PER_TOKEN * context_length and self.tokenizer.has_more(text, context_length):
            raise InvalidArgument(
                f"the prompt has over {context_length} tokens, but this model's context length is {context_length} "
                "tokens and must hold the answer, too; shorten the prompt",
                context_length=context_length,
            )
        return self.tokenizer.encode_now(text, add_special_tokens=add_special_tokens)

    def _request(self, token_ids: list[int], options: RequestOptions) -> PreprocessedRequest:
        max_tokens = self._max_tokens(len(token_ids), options.stop_conditions)
        return PreprocessedRequest(
            model=self.card.display_name,
            token_ids=token_ids,
            stop_conditions=msgspec.structs.replace(options.stop_conditions, max_tokens=max_tokens),
            sampling_options=self._with_defaults(options.sampling_options),
            output_options=options.output_options,
            eos_token_ids=list(self.card.eos_token_ids),
            annotations=list(options.annotations),
            cache_salt=options.cache_salt,
        )

    def _max_tokens(self, prompt_tokens: int, conditions: StopConditions) -> int:
        """Return how many tokens to generate: what was asked for, or all that fit after the prompt."""
        context_length = self.card.context_length
        room = context_length - prompt_tokens
        counts = {"prompt_tokens": prompt_tokens, "context_length": context_length}
        if prompt_tokens == 0:
            raise InvalidArgument("the prompt is empty: it has no tokens")
        if room < 1:
            raise InvalidArgument(
                f"the prompt has {prompt_tokens} tokens, but this model's context length is {context_length} tokens "
                "and must hold the answer, too; shorten the prompt",
                **counts,
            )
        max_tokens = conditions.max_tokens
        if max_tokens is None:
            max_tokens = room
        elif max_tokens > room:
            raise InvalidArgument(
                f"this model's context length is {context_length} tokens, but {prompt_tokens + max_tokens} were asked "
                f"for: {prompt_tokens} in the prompt and {max_tokens} as max_tokens; at most {room} are left",
                max_tokens=max_tokens,
                **counts,
            )
        if conditions.min_tokens > max_tokens:
            raise InvalidArgument(f"min_tokens is {conditions.min_tokens}, more than the {max_tokens} tokens allowed")
        return max_tokens

    def _with_defaults(self, sampling: SamplingOptions) -> SamplingOptions:
        defaults = msgspec.structs.asdict(self.card.sampling_defaults)
        left_open = {name: value for name, value in defaults.items() if getattr(sampling, name) is None}
        return msgspec.structs.replace(sampling, **left_open)

    def _check_options(self, options: RequestOptions) -> None:
        conditions = options.stop_conditions
        if conditions.max_tokens is not None and conditions.max_tokens < 1:
            raise InvalidArgument(f"max_tokens is {conditions.max_tokens}; it must be at least 1")
        if conditions.min_tokens < 0:
            raise InvalidArgument(f"min_tokens is {conditions.min_tokens}; it must not be negative")
        _check_count("n", options.sampling_options.n, 1, CHOICES_MAX)
        _check_count("logprobs", options.output_options.logprobs or 0, 0, LOGPROBS_MAX)
        _check_count("stop strings", len(conditions.stop), 0, STOP_STRINGS_MAX)
        for stop in conditions.stop:
            _check_count("characters of a stop string", len(stop), 1, STOP_STRING_CHARS_MAX)
        _check_count("stop_token_ids", len(conditions.stop_token_ids), 0, STOP_TOKEN_IDS_MAX)
        self._check_token_ids("stop_token_ids", conditions.stop_token_ids)

    def _check_token_ids(self, what: str, token_ids: Sequence[int]) -> None:
        """Check the range; a list longer than the context is refused without looking at every element."""
        if len(token_ids) > max(self.card.context_length, STOP_TOKEN_IDS_MAX):
            raise InvalidArgument(
                f"{what} has {len(token_ids)} tokens, but this model's context length is "
                f"{self.card.context_length} tokens",
                prompt_tokens=len(token_ids),
                context_length=self.card.context_length,
            )
        size = self.tokenizer.vocab_size
        if token_ids and (min(token_ids) < 0 or max(token_ids) >= size):
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < size)
            raise InvalidArgument(f"{what} has token id {wrong}; this model's are 0 to {size - 1}", token_id=wrong)


def _check_count(what: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        limit = f"at least {least}" if count < least else f"at most {most}"
        raise InvalidArgument(f"{what}: {count}; {limit} are allowed", count=count)


def _check_chars(count: int) -> None:
    if count > PROMPT_CHARS_MAX:
        raise InvalidArgument(f"the prompt has {count} characters; at most {PROMPT_CHARS_MAX} are allowed", count=count)


def _count_chars(value: object) -> int:
    """How much text there is in messages or tools, however deep."""
    count = 0
    waiting: list[object] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            count += len(item)
        elif isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, Iterable):
            waiting.extend(item)
    return count
