"""What the annotations of an endpoint say: the type of its request, and that of one item of its answer."""

from __future__ import annotations

import inspect
import types
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from types import SimpleNamespace
from typing import Any, Union, get_args, get_origin, get_type_hints

#: What an endpoint may answer with, and how many items it then has: those of its first argument.
_STREAMS = (AsyncIterator, AsyncGenerator, AsyncIterable, Iterator, Generator)


def request_type(function: Callable[..., object], parameter: inspect.Parameter) -> object:
    """Return the type of a parameter, `Any` without an annotation. Raises TypeError if it is unknown at run time."""
    if parameter.annotation is parameter.empty:
        return Any
    return _resolved(function, f"of {parameter.name!r}", parameter.annotation)


def answer_type(function: Callable[..., object]) -> object:
    """Return the type of one item of an answer, `Any` without an annotation. Raises TypeError as `request_type`."""
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        return Any
    streams = (*_STREAMS, Iterable) if inspect.isgeneratorfunction(function) else _STREAMS
    return _item_type(_resolved(function, "that it returns", annotation), streams)


def _item_type(answer: object, streams: tuple[object, ...]) -> object:
    origin, arguments = get_origin(answer), get_args(answer)
    if not arguments and (origin or answer) in (*streams, Awaitable, Coroutine):
        return Any
    if origin in streams:
        return arguments[0]
    if origin is Awaitable:
        return _item_type(arguments[0], streams)
    if origin is Coroutine:
        return _item_type(arguments[2], streams)
    if origin in (Union, types.UnionType):
        items = tuple(_item_type(member, streams) for member in arguments)
        return answer if items == arguments else Union[items]  # noqa: UP007 - of values, not of types
    return answer


def _resolved(function: Callable[..., object], which: str, annotation: object) -> object:
    """The annotation itself, where the source has it as a string or imports annotations from the future."""
    holder = SimpleNamespace(__annotations__={"it": annotation})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except Exception as error:  # whatever the user's expression raises
        raise TypeError(
            f"{getattr(function, '__qualname__', function)}: the type {annotation!r} {which} is unknown at run time; "
            f"define or import it at the top of the module ({' '.join(str(error).split())})"
        ) from error
