"""Signatures as text that is the same on every machine and with every Python: annotations as they are written, and
defaults only where they are literals."""

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from pathlib import PurePath
from typing import ForwardRef, get_overloads

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LITERALS = (int, float, str, bytes, bool, type(None))
OMITTED = "..."
_STARS: dict[object, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


def def_text(function: Callable[..., object], *, drop: int = 0) -> str:
    """Return `def(...) -> ...` of a function, without its first `drop` parameters."""
    prefix = "async def" if inspect.iscoroutinefunction(inspect.unwrap(function)) else "def"
    found = inspect.signature(function)
    parameters = list(found.parameters.values())[drop:]
    returned = "" if found.return_annotation is found.empty else f" -> {annotation_text(found.return_annotation)}"
    return f"{prefix}({parameters_text(parameters)}){returned}"


def deprecated_parameters(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the parameters that a function takes in forms only that are deprecated: overloads, as in PEP 702."""
    forms = get_overloads(function)
    lasting = [form for form in forms if not hasattr(form, "__deprecated__")]
    if len(lasting) == len(forms):
        return ()
    kept = {name for form in lasting for name in inspect.signature(form).parameters}
    return tuple(sorted(inspect.signature(function).parameters.keys() - kept))


def parameters_text(parameters: Iterable[Parameter], annotations: Mapping[str, object] | None = None) -> str:
    """Return what stands between the parentheses; `annotations` says it better for some parameters."""
    texts: list[str] = []
    has_star = False
    last = None
    for parameter in parameters:
        kind = parameter.kind
        if last is Parameter.POSITIONAL_ONLY and kind is not last:
            texts.append("/")
        if kind is Parameter.KEYWORD_ONLY and not has_star:
            texts.append("*")
        has_star |= kind in (Parameter.VAR_POSITIONAL, Parameter.KEYWORD_ONLY)
        texts.append(_parameter_text(parameter, annotations or {}))
        last = kind
    if last is Parameter.POSITIONAL_ONLY:
        texts.append("/")
    return ", ".join(texts)


def _parameter_text(parameter: Parameter, annotations: Mapping[str, object]) -> str:
    stars = _STARS.get(parameter.kind, "")
    annotation = annotations.get(parameter.name, parameter.annotation)
    text = stars + parameter.name
    if annotation is not Parameter.empty:
        text += f": {annotation_text(annotation)}"
    if parameter.default is not Parameter.empty:
        text += f" = {value_text(parameter.default)}"
    return text


def annotation_text(annotation: object) -> str:
    """Return an annotation as it is written."""
    if isinstance(annotation, ForwardRef):  # in a NamedTuple
        annotation = annotation.__forward_arg__
    text = annotation if isinstance(annotation, str) else _ADDRESS.sub("", inspect.formatannotation(annotation))
    try:
        return ast.unparse(ast.parse(text, mode="eval"))
    except SyntaxError:
        return text


def value_text(value: object) -> str:
    """Return a default, or `...` where only this process knows it."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, PurePath):
        return repr(str(value))
    if isinstance(value, _LITERALS):
        return repr(value)
    if isinstance(value, tuple | frozenset) and all(isinstance(one, _LITERALS) for one in value):
        return repr(value) if isinstance(value, tuple) else f"frozenset({sorted(map(repr, value))})"
    if isinstance(value, type) or inspect.isfunction(value):
        return value.__name__
    return OMITTED
