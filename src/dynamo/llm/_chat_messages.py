"""The messages of a chat request, checked before a template sees them.

A template does not complain of what it does not find: a message without content would just not be in the
prompt. So what a message must have is asked for here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from dynamo._core.stability import stable

PARTS_MAX = 1024
TOOL_CALLS_MAX = 1024

# Names of the alternatives of a field. No field is called so, which tells them apart in an error's path.
TEXT = "<text>"
LIST = "<list>"
OBJECT = "<object>"

_WITHOUT_CONTENT = ("function_call", "refusal", "audio")


def one_of(form_of: Callable[[object], str | None], forms: str) -> Discriminator:
    """Choose an alternative by what was sent, so that an error is about that one and not about the others."""
    return Discriminator(form_of, custom_error_type="form", custom_error_message=f"Input should be {forms}")


def text_or_list(value: object) -> str | None:
    return TEXT if isinstance(value, str) else LIST if isinstance(value, list) else None


def _text_or_object(value: object) -> str | None:
    return TEXT if isinstance(value, str) else OBJECT if isinstance(value, dict) else None


@stable(since="0.1")
class TextPart(BaseModel):
    """One part of a message's content. Parts of other types reach models that take text bodies."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Annotated[str, Field(max_length=64)]
    text: str | None = None

    @model_validator(mode="after")
    def _text_has_text(self) -> TextPart:
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type 'text' needs a 'text'")
        return self


@stable(since="0.1")
class FunctionCall(BaseModel):
    """What a model asked to be called; the arguments are JSON as text, or an object."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    arguments: Annotated[
        Annotated[str, Tag(TEXT)] | Annotated[dict[str, JsonValue], Tag(OBJECT)],
        one_of(_text_or_object, "a text or an object"),
    ]


@stable(since="0.1")
class ToolCall(BaseModel):
    """One of the calls of an assistant's message; one of another kind than a function's has other fields."""

    model_config = ConfigDict(extra="allow", strict=True)

    function: FunctionCall | None = None


@stable(since="0.1")
class ChatMessage(BaseModel):
    """One turn of the conversation. Further fields are the chat template's business."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: (
        Annotated[
            Annotated[str, Tag(TEXT)]
            | Annotated[list[TextPart], Field(min_length=1, max_length=PARTS_MAX, fail_fast=True), Tag(LIST)],
            one_of(text_or_list, "a text or a list of parts"),
        ]
        | None
    ) = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=TOOL_CALLS_MAX, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and not self._may_lack_content():
            raise ValueError(f"a message of the role '{self.role}' needs 'content'")
        return self

    def _may_lack_content(self) -> bool:
        if self.role == "assistant":
            others = self.model_extra or {}
            return bool(self.tool_calls) or any(others.get(name) is not None for name in _WITHOUT_CONTENT)
        return self.role == "function"
