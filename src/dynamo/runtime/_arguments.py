"""Wrong arguments of public functions are told where they are given, not where something trips over them.

A value of the wrong type is a TypeError, one that is out of range an `InvalidArgument`. Both name the parameter,
the value, and what is allowed.
"""

from __future__ import annotations

import sys

from dynamo._core.address import EndpointId, check_name
from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo._core.shown import shown


def wrong_type(parameter: str, value: object, allowed: str) -> TypeError:
    """The error for a value that is of no type that makes sense."""
    return TypeError(f"{parameter}={shown(value)} is of type {type(value).__name__}: give {allowed}")


def check_type(parameter: str, value: object, types: type | tuple[type, ...], allowed: str) -> None:
    """Raise TypeError unless `value` is an instance of one of `types`. A bool is no number."""
    if not isinstance(value, types) or (isinstance(value, bool) and types is int):
        raise wrong_type(parameter, value, allowed)


def check_callable(parameter: str, value: object, allowed: str) -> None:
    """Raise TypeError unless `value` can be called."""
    if not callable(value):
        raise wrong_type(parameter, value, allowed)


def check_url_or(parameter: str, value: object, method: str, allowed: str) -> None:
    """Raise TypeError unless `value` is a URL, None, or an implementation, known by one of its methods."""
    if value is not None and not isinstance(value, str) and not hasattr(value, method):
        raise wrong_type(parameter, value, allowed)


def check_text(parameter: str, value: object) -> None:
    """Raise TypeError unless `value` is text."""
    check_type(parameter, value, str, "a str")


def check_part(kind: str, name: object) -> None:
    """Raise unless `name` is fit to be a namespace, a component, an endpoint or a topic."""
    check_text(kind, name)
    check_name(kind, str(name))


def endpoint_id(path: object) -> EndpointId:
    """Read the path of an endpoint."""
    check_type("path", path, str, "text such as 'namespace.component.endpoint'")
    return EndpointId.parse(str(path))


def check_seconds(parameter: str, value: object, *, above_zero: bool = False, or_none: str = "") -> None:
    """Raise unless `value` is a finite number of seconds; with `or_none`, what None means, None is allowed."""
    least = "more than 0" if above_zero else "0 or more"
    allowed = f"seconds, {least}{f', or None for {or_none}' if or_none else ''}"
    if value is None and or_none:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong_type(parameter, value, allowed)
    if not (value > 0 if above_zero else value >= 0) or value > sys.float_info.max:  # no loop waits for so long
        raise InvalidArgument(f"{parameter}={shown(value)}: give {allowed}", parameter=parameter)


def check_count(parameter: str, value: object, least: int, *, or_none: str = "") -> None:
    """Raise unless `value` is an integer and at least `least`; with `or_none`, what None means, None is allowed."""
    allowed = f"an integer of {least} or more{f', or None for {or_none}' if or_none else ''}"
    if value is None and or_none:
        return
    check_type(parameter, value, int, allowed)
    if isinstance(value, int) and value < least:
        raise InvalidArgument(f"{parameter}={shown(value)}: give {allowed}", parameter=parameter)


def context_or_new(context: Context | None) -> Context:
    """The context that was given with a request, or one of its own."""
    if context is None:
        return Context()
    if not isinstance(context, Context):
        raise wrong_type("context", context, "the context that a handler was given, or None")
    return context
