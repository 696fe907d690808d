"""What the constructor of a service takes, and what a configuration has for it.

A key of the section is the parameter of that name, with `_` where the key has `-`. A parameter whose
annotation is a plain type (`int`, `float`, `str`, `bool`, or one of them or None) takes values of that type
only; whatever else is annotated is passed as it was written.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence

import msgspec

from dynamo._core.errors import ConfigError
from dynamo._core.shown import cut
from dynamo.sdk._secrets import shown, without_secrets
from dynamo.sdk._sections import WHOLE_NUMBER, Json, KeyPath, Section, parameter_name, values_of

#: How alike a key and a parameter are before one is taken for the other, misspelt.
_ALIKE = 0.85
#: A longer default is cut where it is shown.
_DEFAULT_CHARS_MAX = 200

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a constructor that a configuration can fill."""

    name: str
    #: What it is without a value, as it is shown: as JSON, or else as Python does. None if it needs a value.
    default: str | None = None
    #: What a value may be, of the values of `_KINDS`; nothing if it may be anything.
    kinds: tuple[str, ...] = ()


class Constructor(msgspec.Struct, frozen=True):
    """What the constructor of a service takes."""

    parameters: tuple[Parameter, ...] = ()
    #: It has `**kwargs`, for whatever no parameter takes.
    takes_all: bool = False

    @property
    def names(self) -> list[str]:
        return [parameter.name for parameter in self.parameters]


def constructor_of(inner: type) -> Constructor:
    """Read the signature of a class. Raises `ConfigError` if nothing could ever build it."""
    signature = _parameters(inner)
    for parameter in signature:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise ConfigError(
                f"{inner.__name__} cannot be built: its parameter {parameter.name!r} is positional only, and a "
                "configuration gives values by name; remove the '/' from its __init__"
            )
    hints = _hints(inner)
    return Constructor(
        tuple(
            Parameter(
                parameter.name,
                None if parameter.default is parameter.empty else _as_text(parameter.name, parameter.default),
                _kinds(hints.get(parameter.name), parameter.default),
            )
            for parameter in signature
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ),
        any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature),
    )


def configured_arguments(name: str, inner: type, config: Mapping[str, Section]) -> dict[str, object]:
    """Return what the configuration has for the constructor of a service, by the names of its parameters.

    Raises `ConfigError` for a parameter that has no value, or one of the wrong type.
    """
    constructor = constructor_of(inner)
    if problems := constructor_problems(name, constructor, config):
        raise ConfigError("; ".join(f"{'.'.join(path)}: {problem}" if path else problem for path, problem in problems))
    parameters = {parameter.name: parameter for parameter in constructor.parameters}
    values = {parameter_name(key): value for key, (_, value) in values_of(config, name).items()}
    arguments: dict[str, object] = {}
    for key, value in values.items():
        if key in parameters:
            arguments[key] = _read(value, parameters[key].kinds)[0]
        elif constructor.takes_all:
            arguments[key] = value
    return arguments


def constructor_problems(
    name: str, constructor: Constructor, config: Mapping[str, Section]
) -> list[tuple[KeyPath, str]]:
    """Say why the service cannot be built: for each reason the path of a wrong value, empty for a missing one."""
    problems: list[tuple[KeyPath, str]] = []
    given: dict[str, KeyPath] = {}
    parameters = {parameter.name: parameter for parameter in constructor.parameters}
    values = values_of(config, name)
    for key, (path, value) in values.items():
        parameter = parameters.get(parameter_name(key))
        if parameter is None:
            continue
        if parameter.name in given:
            problems.append((path, f"{'.'.join(given[parameter.name])} is the same parameter; keep one of them"))
        elif not _read(value, parameter.kinds)[1]:
            quoted = "; write it in quotes" if parameter.kinds == (_KINDS[str],) and value is not None else ""
            wanted = " or ".join(parameter.kinds)
            problems.append((path, f"must be {wanted}, not {shown(key, value)}{quoted}"))
        given[parameter.name] = path
    alike = {meant: key for key, meant in misspelt(list(values), constructor)}
    for parameter in constructor.parameters:
        if parameter.default is not None or parameter.name in given:
            continue
        without = f"{name} cannot be built without {parameter.name!r}"
        if parameter.name in alike:
            problems.append((values[alike[parameter.name]][0], f"{without}; is it meant by this key?"))
        else:
            problems.append(((), f"{without}: set it with --{name}.{parameter.name}=VALUE"))
    return problems


def wants_text(key: str, value: Json, constructor: Constructor) -> bool:
    """Whether a value is no text, and its parameter takes nothing else."""
    kinds = {parameter.name: parameter.kinds for parameter in constructor.parameters}.get(parameter_name(key), ())
    return _KINDS[str] in kinds and not _read(value, kinds)[1]


def misspelt(keys: Sequence[str], constructor: Constructor) -> list[tuple[str, str]]:
    """Return the keys that look like one of the parameters, each with that parameter."""
    found = []
    names = [] if constructor.takes_all else constructor.names
    for key in keys:
        name = parameter_name(key)
        close = difflib.get_close_matches(name, names, n=1, cutoff=_ALIKE)
        if name not in names and close:
            found.append((key, close[0]))
    return found


def _parameters(inner: type) -> list[inspect.Parameter]:
    if inner.__init__ is object.__init__:  # type: ignore[misc]
        return []
    try:
        return list(inspect.signature(inner).parameters.values())
    except (TypeError, ValueError):  # written in C, and silent about it
        return []


def _hints(inner: type) -> dict[str, object]:
    try:
        return typing.get_type_hints(inner.__init__)  # type: ignore[misc]
    except Exception:  # an annotation is any expression: this one is for a type checker only
        return {}


def _kinds(hint: object, default: object) -> tuple[str, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices = typing.get_args(hint) if union else (hint,)
    if hint is None or not all(isinstance(choice, type) and choice in _KINDS for choice in choices):
        return ()
    kinds = [kind for type_, kind in _KINDS.items() if type_ in choices or (type_ is type(None) and default is None)]
    return tuple(kinds)


def _read(value: Json, kinds: Sequence[str]) -> tuple[object, bool]:
    """Return a value as a parameter takes it, and whether it does.

    A whole number is a number, too, and so is what YAML takes for text although it is one: `1e-3`.
    """
    if not kinds or _kind_of(value) in kinds:
        return value, True
    number = _number(value)
    if number is None:
        return value, False
    if _KINDS[int] in kinds and math.isfinite(number) and number == int(number):
        return int(number), True
    return (float(number), True) if _KINDS[float] in kinds else (value, False)


def _kind_of(value: Json) -> str | None:
    return _KINDS.get(type(value))


def _number(value: Json) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value):
        return int(value)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) or not isinstance(value, str) else None


def _as_text(name: str, default: object) -> str:
    try:
        text = json.dumps(without_secrets(default, name))
    except (TypeError, ValueError, RecursionError):
        text = reprlib.repr(default)
    return cut(text, _DEFAULT_CHARS_MAX)
