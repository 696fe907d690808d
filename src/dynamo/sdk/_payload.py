"""From a value as it arrived to the type that an annotation wants.

The types that JSON has itself pass as they came: `str`, `int`, `float`, `bool`, `None`, `dict`, `list`,
`Any`, and unions of them. Everything else (models, dataclasses, `TypedDict`, `list[Model]`, unions of
models, ...) is validated, as pydantic does it or, where that knows no way, msgspec. Text is read as JSON
where no part of the type could be text itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
    Set,
)
from enum import Enum
from functools import partial
from typing import (
    Annotated,
    Any,
    ForwardRef,
    LiteralString,
    Never,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    is_typeddict,
)

import msgspec
from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from dynamo._core.shown import one_line
from dynamo.runtime import Annotated as AnnotatedItem

#: Makes the wanted type of a value, or raises `Misfit`.
Reader = Callable[[object], object]

_UNIONS = (Union, types.UnionType)
# What pydantic makes an iterator of, or nothing; here it is a list.
_LISTS = (Collection, Iterable)
_CONTAINERS = (dict, list, Mapping, MutableMapping, Sequence, MutableSequence, *_LISTS)
# An item with annotations is handed out without them: they are for clients of the endpoint itself.
_JSON_TYPES = (
    str, int, float, bool, type(None), Any, object, NoReturn, Never, LiteralString, AnnotatedItem, *_CONTAINERS,
)  # fmt: skip

_VALUE_CHARS_MAX = 200
_PROBLEMS_TOLD_MAX = 5
_PROBLEM_CHARS_MAX = 300


class Misfit(ValueError):
    """A value is not what was wanted; the message says in one line why."""


def reader_of(wanted: object) -> Reader | None:
    """Return how a value becomes a `wanted`; None if it may be anything. Raises TypeError if none can become that."""
    if _is_json(wanted):
        return None
    for part in _parts(wanted):
        if isinstance(part, type) and issubclass(part, BaseModel) and inspect.isabstract(part):
            raise TypeError(f"{part.__name__} is abstract, so nothing can be one; write a union of its subclasses")
    if _names_itself(wanted):
        raise TypeError(f"{show(wanted)} contains itself; write a pydantic RootModel of it")
    if get_origin(wanted) in _LISTS:
        wanted = list[get_args(wanted)[0]]  # type: ignore[misc]
    try:
        validator = TypeAdapter[object](wanted).validator  # type: ignore[arg-type]
        # A model is sent with the names of its fields; others may write the aliases.
        validate = partial(validator.validate_python, by_alias=True, by_name=True)
        validate_json = partial(validator.validate_json, by_alias=True, by_name=True)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        if any(_is_for_msgspec(part) for part in _parts(wanted)):
            return _msgspec_reader(wanted)
        reason = one_line(error.message, _PROBLEM_CHARS_MAX)
        advice = "use a pydantic model, a dataclass, a TypedDict or dict"
        raise TypeError(f"{show(wanted)} cannot be made of JSON; {advice} ({reason})") from error
    may_be_text = not _is_structured(wanted)

    def read(value: object) -> object:
        try:
            if type(value) is str and not may_be_text:
                return validate_json(value)
            return validate(value)
        except ValidationError as error:
            problem = error
        if type(value) is not str:
            # What arrives is JSON: a strict model takes a date or an enumeration from it, and not from a str.
            try:
                return validate_json(json.dumps(value))
            except ValidationError as error:
                problem = error
            except (TypeError, ValueError):  # bytes, which JSON does not have
                pass
        raise Misfit(_explained(problem, value, wanted)) from None

    return read


def show(wanted: object) -> str:
    """A type as a person writes it, without its modules."""
    return re.sub(r"\b[A-Za-z_][\w.<>]*\.(?=\w)", "", inspect.formatannotation(_bare(wanted)))


def _msgspec_reader(wanted: object) -> Reader:
    decoder = msgspec.json.Decoder[object](wanted, dec_hook=_validated)
    may_be_text = not _is_structured(wanted)

    def read(value: object) -> object:
        try:
            if type(value) is str and not may_be_text:
                return decoder.decode(value)
            return msgspec.convert(value, wanted, dec_hook=_validated)
        except msgspec.DecodeError as error:
            raise Misfit(f"no {show(wanted)}: {one_line(error, _PROBLEM_CHARS_MAX)}") from None

    return read


def _is_for_msgspec(part: object) -> bool:
    """Whether it is a struct, or the standard library's TypedDict, which pydantic wants of Python 3.12."""
    return isinstance(part, type) and (issubclass(part, msgspec.Struct) or is_typeddict(part))


def _validated(model: type, value: object) -> object:
    """A model in a type of msgspec's, which makes its error of a ValueError."""
    if not issubclass(model, BaseModel):
        raise NotImplementedError
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(_explained(error, value, model)) from None


def _is_json(wanted: object) -> bool:
    """Whether a value of JSON is one, as far as its annotation says."""
    wanted = _bare(wanted)
    if isinstance(wanted, TypeVar | ForwardRef) or wanted in _JSON_TYPES:
        return True
    arguments = get_args(wanted)
    if get_origin(wanted) in _UNIONS:
        return all(map(_is_json, arguments))
    if get_origin(wanted) in _CONTAINERS:
        *keys, values = map(_bare, arguments)
        return all(key in (str, Any) for key in keys) and (
            values in (Any, object) or (_names_itself(values) and _is_json(values))
        )
    return False


def _names_itself(wanted: object) -> bool:
    """Whether it is an alias with its own name in it: any other name was looked up."""
    return any(isinstance(part, ForwardRef) for part in _parts(wanted))


def _is_structured(wanted: object) -> bool:
    """Whether no part of it could be text, so that text must be its JSON."""
    wanted = _bare(wanted)
    origin = get_origin(wanted)
    if origin in _UNIONS:
        return all(map(_is_structured, get_args(wanted)))
    kind = origin or wanted
    if not isinstance(kind, type):
        return False
    if issubclass(kind, RootModel):
        return _is_structured(kind.model_fields["root"].annotation)
    structured = (BaseModel, msgspec.Struct, int, float, type(None), Mapping, Sequence, Set, *_LISTS)
    return not issubclass(kind, str | bytes | Enum) and (
        issubclass(kind, structured) or dataclasses.is_dataclass(kind) or is_typeddict(kind)
    )


def _parts(wanted: object) -> Iterator[object]:
    """The type, and the types in it."""
    wanted = _bare(wanted)
    yield wanted
    for argument in get_args(wanted):
        yield from _parts(argument)


def _bare(wanted: object) -> object:
    """The type behind a name for it, or with notes on it."""
    while True:
        if get_origin(wanted) is Annotated:
            wanted = get_args(wanted)[0]
        elif hasattr(wanted, "__supertype__"):  # a NewType
            wanted = wanted.__supertype__
        elif type(wanted).__name__ == "TypeAliasType":  # `type X = ...`, of Python 3.12
            wanted = getattr(wanted, "__value__")  # noqa: B009
        elif not isinstance(wanted, types.GenericAlias) and get_origin(wanted) and not get_args(wanted):
            return get_origin(wanted)  # `typing.Dict`, with nothing in brackets
        else:
            return wanted


def _explained(error: ValidationError, value: object, wanted: object) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = problems[0]
    if not first["loc"] and type(value) is not str:
        shown = one_line(value, _VALUE_CHARS_MAX)
        return f"{shown} is no {show(wanted)}: {one_line(first['msg'], _PROBLEM_CHARS_MAX)}"
    count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} for {show(wanted)}"
    told = [one_line(_located(problem), _PROBLEM_CHARS_MAX) for problem in problems[:_PROBLEMS_TOLD_MAX]]
    more = [f"and {len(problems) - len(told)} more"] if len(problems) > len(told) else []
    return f"{count}: {'; '.join([*told, *more])}"


def _located(problem: Mapping[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
