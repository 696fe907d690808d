"""Rendering a conversation with the model's own chat template, as transformers' `apply_chat_template` does.

A template comes from the model directory, never from a request, is compiled once, and runs in Jinja's
immutable sandbox. What a template can digest differs: content as text or as parts, tool-call arguments as
objects or as JSON text. It is found out once, by rendering probes, and conversations are put into the form
that the template takes. So a message is never dropped silently because its template looked elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo.llm._limits import PROMPT_CHARS_MAX

Message = Mapping[str, object]
Tool = Mapping[str, object]

_PROBE = "dynamo-probe"
_USER: Message = {"role": "user", "content": _PROBE}

#: What the code of a template can raise when a message is not as it expects.
_RENDER_ERRORS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


class Refused(jinja2.TemplateError):
    """Raised by a template itself, through `raise_exception`."""


class ChatTemplate:
    """A compiled chat template, and the form in which it takes messages."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, name: str) -> None:
        self._name = name
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"the chat template of {name} is broken at line {error.lineno}: {error.message}", name=name
            ) from error
        self._reserved = {"messages", "tools", "documents", "add_generation_prompt"}
        self._reserved.update(self._special_tokens, self._template.globals)
        self.takes_parts = _is_shown(self._probe({"role": "user", "content": [{"type": "text", "text": _PROBE}]}))
        self.takes_text = self._check_text()
        self.takes_argument_objects = self._check_argument_objects()

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        template_args: Mapping[str, object] | None = None,
    ) -> str:
        """Return the prompt. `template_args` are the template's own switches, such as `enable_thinking`."""
        for argument in template_args or ():
            if argument in self._reserved or argument.startswith("_"):
                raise InvalidArgument(f"chat template argument {argument!r} is set by the server", name=argument)
        prepared = [self._prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        variables = {"tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        try:
            return self._render({**self._special_tokens, **(template_args or {}), **variables, "messages": prepared})
        except Refused as error:
            raise InvalidArgument(f"the model's chat template refuses these messages: {error}") from error
        except SecurityError as error:
            raise ConfigError(f"the chat template of {self._name} does what it must not: {error}") from error
        except _RENDER_ERRORS as error:
            raise InvalidArgument(
                f"the chat template of {self._name} cannot render these messages: {type(error).__name__}: {error}"
            ) from error

    def _render(self, variables: Mapping[str, object]) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(variables):
            pieces.append(piece)
            size += len(piece)
            if size > PROMPT_CHARS_MAX:
                raise InvalidArgument(f"the rendered prompt is longer than {PROMPT_CHARS_MAX} characters")
        return "".join(pieces)

    def _prepare(self, message: Message, where: str) -> dict[str, object]:
        """Put a message into the form that the template takes; absent and null fields are the same."""
        prepared = {key: value for key, value in message.items() if value is not None}
        content = prepared.get("content")
        if isinstance(content, list):
            texts = [_text_of_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
            parts = [{"type": "text", "text": text} for text in texts]
            prepared["content"] = parts if self.takes_parts else "\n".join(texts)
        elif isinstance(content, str) and not self.takes_text:
            prepared["content"] = [{"type": "text", "text": content}]
        calls = prepared.get("tool_calls")
        if isinstance(calls, list) and self.takes_argument_objects:
            prepared["tool_calls"] = [_with_object(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
        return prepared

    def _probe(self, *messages: Message) -> str | None:
        """Render messages as they are; None if the template fails on them."""
        try:
            return self._probe_strictly(*messages)
        except _RENDER_ERRORS:
            return None

    def _probe_strictly(self, *messages: Message) -> str:
        variables = {"tools": None, "documents": None, "add_generation_prompt": True, "messages": messages}
        return self._render({**self._special_tokens, **variables})

    def _check_text(self) -> bool:
        """Whether content may be a string. A template that fails even on one user message is broken."""
        try:
            return _is_shown(self._probe_strictly(_USER)) or not self.takes_parts
        except Refused:
            return True  # it wants another conversation, not another form
        except _RENDER_ERRORS as error:
            if self.takes_parts:
                return False
            raise ConfigError(
                f"the chat template of {self._name} fails on a single user message: {type(error).__name__}: {error}"
            ) from error

    def _check_argument_objects(self) -> bool:
        """Whether arguments of tool calls are objects, as most templates have it, or JSON text."""
        shown = self._probe(_USER, _tool_call({_PROBE: 1}))
        if shown is not None and f"{{'{_PROBE}'" not in shown:
            return True
        return not _is_shown(self._probe(_USER, _tool_call(json.dumps({_PROBE: 1}))))


class _GenerationTag(Extension):
    """Tolerates `{% generation %}`, which marks what an assistant says for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it: unlike Jinja's own filter, without HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise Refused(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _is_shown(rendered: str | None) -> bool:
    """Whether the probe's text was rendered, and not the Python or JSON form of what contains it."""
    return rendered is not None and _PROBE in rendered and "'type'" not in rendered and '"type"' not in rendered


def _tool_call(arguments: object) -> Message:
    function = {"name": "probe", "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "0", "type": "function", "function": function}]}


def _text_of_part(part: object, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidArgument(f"{where} is of type {kind!r}; this model takes text only", where=where)


def _with_object(call: object, where: str) -> object:
    """Return a tool call whose arguments are an object: clients send them as JSON text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidArgument(f"{where} has no function", where=where)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        parsed = msgspec.json.decode(arguments or "{}", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(f"{where}.function.arguments is not a JSON object: {error}", where=where) from error
    return {**call, "function": {**function, "arguments": parsed}}
