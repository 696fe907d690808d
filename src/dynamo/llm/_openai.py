"""What people send to the OpenAI routes, checked before anything else sees it.

A field is in one of three states, and never silently ignored: served; known but not served yet, which
is said in so many words (`refuse_unserved`); or unknown, which is an error that names it. Every error
is an `InvalidArgument` whose `param` detail is the path of the field, as in `messages[0].content`.

The types are strict: `"1"` is not a number and `true` is not 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, JsonValue, Tag, ValidationError, model_validator

from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable
from dynamo.llm._chat_messages import LIST, TEXT, ChatMessage, one_of, text_or_list
from dynamo.llm._limits import (
    CHOICES_MAX,
    LOGPROBS_MAX,
    MESSAGES_MAX,
    PROMPTS_MAX,
    STOP_STRING_CHARS_MAX,
    STOP_STRINGS_MAX,
)
from dynamo.llm._nvext import CacheSalt, NvExt
from dynamo.llm._plain_model import RAISED

MODEL_CHARS_MAX = 256
TOKENS_MAX = 2**31 - 1
PROMPT_TOKENS_MAX = 1 << 20
TOKEN_ID_MAX = 2**32 - 1
SEED_MAX = 2**63 - 1
TOP_K_MAX = 2**31 - 1
REPETITION_PENALTY_MIN = 1e-3
REPETITION_PENALTY_MAX = 10.0
USER_CHARS_MAX = 1024
ERRORS_NAMED_MAX = 8

# Forms of a prompt besides a text and a list of texts.
TOKENS = "<token ids>"
TOKEN_LISTS = "<lists of token ids>"

StopString = Annotated[str, Field(min_length=1, max_length=STOP_STRING_CHARS_MAX)]
TokenId = Annotated[int, Field(ge=0, le=TOKEN_ID_MAX)]
# A list that is wrong throughout is one error, not one per item.
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=PROMPT_TOKENS_MAX, fail_fast=True)]
Prompt = str | TokenIds
Stop = Annotated[
    Annotated[StopString, Tag(TEXT)] | Annotated[list[StopString], Field(max_length=STOP_STRINGS_MAX), Tag(LIST)],
    one_of(text_or_list, "a text or a list of texts"),
]
UserText = Annotated[str, Field(max_length=USER_CHARS_MAX)]


@stable(since="0.1")
class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


@stable(since="0.1")
class OpenAIRequest(BaseModel):
    """The fields that both routes share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    #: Fields that are known but not served, each with the values that ask for nothing.
    UNSERVED: ClassVar[Mapping[str, tuple[JsonValue, ...]]] = {}
    #: The field that holds the prompt.
    PROMPT: ClassVar[str]

    model: Annotated[str, Field(min_length=1, max_length=MODEL_CHARS_MAX)]
    max_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=-SEED_MAX, le=SEED_MAX)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: JsonValue = None
    # Who asks. It does not change the answer.
    user: UserText | None = None
    safety_identifier: UserText | None = None
    prompt_cache_key: UserText | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    top_k: Annotated[int, Field(ge=-1, le=TOP_K_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=TOKENS_MAX)] | None = None
    ignore_eos: bool | None = None
    repetition_penalty: Annotated[float, Field(ge=REPETITION_PENALTY_MIN, le=REPETITION_PENALTY_MAX)] | None = None
    skip_special_tokens: bool | None = None

    guided_json: JsonValue = None
    guided_regex: JsonValue = None
    guided_choice: JsonValue = None
    guided_grammar: JsonValue = None
    guided_decoding_backend: JsonValue = None
    guided_whitespace_pattern: JsonValue = None
    include_stop_str_in_output: JsonValue = None
    prompt_logprobs: JsonValue = None
    # vLLM's name for it; it is in `nvext`, too.
    cache_salt: CacheSalt | None = None
    nvext: NvExt | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> OpenAIRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("'stream_options' is for 'stream': true only")
        budget = self.budget
        if self.min_tokens and budget is not None and self.min_tokens > budget:
            raise ValueError(f"'min_tokens' ({self.min_tokens}) is above the maximum of {budget} tokens")
        in_nvext = self.nvext and self.nvext.cache_salt
        if self.cache_salt and in_nvext and self.cache_salt != in_nvext:
            raise ValueError("'cache_salt' and 'nvext.cache_salt' differ: send one of them")
        return self

    @property
    def budget(self) -> int | None:
        """The most tokens that the answer may have; None leaves it to the context length."""
        return self.max_tokens

    @property
    def budget_name(self) -> str:
        """The field that says the budget."""
        return "max_tokens"

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def salt(self) -> str | None:
        """What keeps its cache apart from that of others, wherever it was said."""
        return self.cache_salt or (self.nvext.cache_salt if self.nvext is not None else None)

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk that counts tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def logprobs_count(self) -> int | None:
        """How many alternatives to report per token besides the chosen one; None reports nothing."""
        return None

    def body(self) -> dict[str, JsonValue]:
        """What was sent, as plain data; the salt is there under vLLM's name for it, wherever it was said."""
        body = self.model_dump(exclude_unset=True)
        if self.salt is not None:
            body["cache_salt"] = self.salt
        return body


_UNSERVED: dict[str, tuple[JsonValue, ...]] = {
    "logit_bias": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "include_stop_str_in_output": (False,),
    "prompt_logprobs": (),
}


@stable(since="0.1")
class ChatRequest(OpenAIRequest):
    """The body of `/v1/chat/completions`."""

    UNSERVED: ClassVar[Mapping[str, tuple[JsonValue, ...]]] = _UNSERVED | {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": (),
        "verbosity": ("medium",),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "web_search_options": (),
        "prompt_cache_retention": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
    }
    PROMPT: ClassVar[str] = "messages"

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_MAX, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=LOGPROBS_MAX)] | None = None
    # Without tools it asks for nothing, and tools are refused by themselves.
    parallel_tool_calls: bool | None = None

    tools: JsonValue = None
    tool_choice: JsonValue = None
    functions: JsonValue = None
    function_call: JsonValue = None
    response_format: JsonValue = None
    modalities: JsonValue = None
    audio: JsonValue = None
    prediction: JsonValue = None
    reasoning_effort: JsonValue = None
    verbosity: JsonValue = None
    service_tier: JsonValue = None
    store: JsonValue = None
    web_search_options: JsonValue = None
    prompt_cache_retention: JsonValue = None
    chat_template: JsonValue = None
    chat_template_kwargs: JsonValue = None

    @model_validator(mode="after")
    def _chat_fields_agree(self) -> ChatRequest:
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise ValueError("'max_tokens' and 'max_completion_tokens' differ: send the second only")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' needs 'logprobs': true")
        return self

    @property
    def budget(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def budget_name(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def logprobs_count(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def _prompt_form(prompt: object) -> str | None:
    match prompt:
        case str():
            return TEXT
        case [int(), *_]:
            return TOKENS
        case [list(), *_]:
            return TOKEN_LISTS
        case [] | [str(), *_]:
            return LIST
    return None


@stable(since="0.1")
class CompletionRequest(OpenAIRequest):
    """The body of `/v1/completions`."""

    UNSERVED: ClassVar[Mapping[str, tuple[JsonValue, ...]]] = _UNSERVED | {
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }
    PROMPT: ClassVar[str] = "prompt"

    prompt: Annotated[
        Annotated[str, Tag(TEXT)]
        | Annotated[TokenIds, Tag(TOKENS)]
        | Annotated[list[str], Field(min_length=1, max_length=PROMPTS_MAX, fail_fast=True), Tag(LIST)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=PROMPTS_MAX, fail_fast=True), Tag(TOKEN_LISTS)],
        one_of(_prompt_form, "a text, a list of texts, a list of token ids, or a list of such lists"),
    ]
    logprobs: Annotated[int, Field(ge=0, le=LOGPROBS_MAX)] | None = None

    best_of: JsonValue = None
    echo: JsonValue = None
    suffix: JsonValue = None

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts, each a text or its token ids."""
        match self.prompt:
            case str():
                return [self.prompt]
            case [int(), *_]:
                return [[token_id for token_id in self.prompt if isinstance(token_id, int)]]
            case several:
                return [prompt for prompt in several if not isinstance(prompt, int)]

    @property
    def logprobs_count(self) -> int | None:
        return self.logprobs


Request = TypeVar("Request", bound=OpenAIRequest)


def parse(kind: type[Request], body: JsonValue) -> Request:
    """Return `body` as a request of this kind, or raise an `InvalidArgument` that names the field."""
    if not isinstance(body, dict):
        raise InvalidArgument("the body must be a JSON object")
    if unknown := [name for name in body if name not in kind.model_fields]:
        names = ", ".join(f"`{name[:64]}`" for name in unknown[:ERRORS_NAMED_MAX])
        raise InvalidArgument(f"Unsupported parameter(s): {names}", param=unknown[0][:64])
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _explained(error) from None


def refuse_unserved(request: OpenAIRequest) -> None:
    """Raise unless every field that was sent is one that token engines serve."""
    for name in request.model_fields_set & request.UNSERVED.keys():
        value = getattr(request, name)
        if value is not None and not any(_same(value, nothing) for nothing in request.UNSERVED[name]):
            raise InvalidArgument(f"'{name}' is not served yet: leave it out{_or(request.UNSERVED[name])}", param=name)
    if request.nvext is not None:
        for name, value in request.nvext.unserved().items():
            nothing = request.nvext.UNSERVED[name]
            if value is not None and not any(_same(value, one) for one in nothing):
                path = f"nvext.{name}"
                raise InvalidArgument(f"'{path}' is not served yet: leave it out{_or(nothing)}", param=path)
    if request.logprobs_count:
        name = "top_logprobs" if isinstance(request, ChatRequest) else "logprobs"
        raise InvalidArgument(f"'{name}' above 0 is not served yet: engines report the chosen token only", param=name)


def _same(value: JsonValue, other: JsonValue) -> bool:
    """Whether they are the same JSON: in Python `True` is 1."""
    return type(value) is type(other) and value == other


def _or(values: Iterable[JsonValue]) -> str:
    return "".join(f", or send {msgspec.json.encode(value).decode()}" for value in values)


#: Where pydantic names what it calls things in Python: what it is in JSON.
_WORDS = {
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
}


def _explained(error: ValidationError) -> InvalidArgument:
    """Turn pydantic's first error into a sentence with the field's path."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = _WORDS.get(first["type"], first["msg"].removeprefix(RAISED))
    path = tuple(part for part in first["loc"] if isinstance(part, int) or part.isidentifier())
    if not path:
        named = message.split("'")
        return InvalidArgument(message, **({"param": named[1]} if len(named) > 2 else {}))
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return InvalidArgument(f"'{text}': {message}", param=text)
