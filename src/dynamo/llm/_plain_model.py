"""Pydantic models that people construct, and whose complaints are errors of ours.

Each field that is wrong is one sentence with its name, its value and what is allowed. An unknown name is refused with
the one that was probably meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dynamo._core.errors import ConfigError, DynamoError
from dynamo.llm._numbers import shown

ERRORS_NAMED_MAX = 8

M = TypeVar("M", bound="PlainModel")

#: What pydantic says before the message of an error that a validator raised.
RAISED = "Value error, "


class PlainModel(BaseModel, extra="forbid"):
    """The base of configuration objects: every wrong value, and every unknown name, is a `ConfigError`."""

    def __init__(self, **fields: object) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise self._refusal(error) from None

    @classmethod
    def _refusal(cls, error: ValidationError) -> ConfigError:
        raised = _raised(error.errors(include_url=False)[0])
        if isinstance(raised, ConfigError):  # a validator's, which says all there is to say
            return raised
        first, message = explained(cls, error)
        return ConfigError(message, setting=first)


def made_of(kind: type[M], fields: Mapping[str, object]) -> M:
    """Return a model with these fields. Raises what its constructor does; `model_validate` has errors of pydantic's."""
    return kind(**fields)


def explained(kind: type[BaseModel], error: ValidationError) -> tuple[str, str]:
    """Return the name of the first field that is wrong, and a message with a sentence for each."""
    found: dict[str, str] = {}
    for one in error.errors(include_url=False):
        found.setdefault(_path(one["loc"]), _sentence(kind, one))  # of a union, the first kind
    sentences = list(found.values())[:ERRORS_NAMED_MAX]
    return next(iter(found)), f"{kind.__name__}: {'; '.join(sentences)}"


def _raised(one: ErrorDetails) -> object:
    """What a validator raised, if it was one."""
    return one.get("ctx", {}).get("error")


def _sentence(kind: type[BaseModel], one: ErrorDetails) -> str:
    if isinstance(raised := _raised(one), DynamoError):
        return raised.message
    name, field = _path(one["loc"]), str(one["loc"][0]) if one["loc"] else ""
    if one["type"] == "missing":
        return f"{name!r} is missing{_about(kind, field)}"
    if field and field not in kind.model_fields:
        near = difflib.get_close_matches(field, list(kind.model_fields), 1)
        known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kind.model_fields)}"
        return f"there is no {name!r}: {known}"
    allowed = one["msg"].removeprefix(RAISED).replace("Input should be", "it must be", 1)
    return f"{name!r} is {shown(one['input'])}; {allowed}{_about(kind, field)}"


def _about(kind: type[BaseModel], field: str) -> str:
    description = kind.model_fields[field].description if field in kind.model_fields else None
    return f" ({description})" if description else ""


def _path(at: tuple[int | str, ...]) -> str:
    """The name of a field, and where in its list; what else pydantic says names the kinds of a union."""
    return "".join([*map(str, at[:1]), *(f"[{part}]" for part in at[1:] if isinstance(part, int))])
