"""What is public of a class: how to make one, what it derives from, and its members."""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from types import FunctionType
from typing import Generic, Protocol, cast

import msgspec
from scripts._api.items import Item
from scripts._api.signatures import annotation_text, def_text, deprecated_parameters, parameters_text, value_text

from dynamo._core.stability import stability_of

_OURS = "dynamo"
#: Special methods that people use by what they stand for. The others are those of every object.
_SPECIAL = {
    "__aenter__", "__aexit__", "__aiter__", "__and__", "__anext__", "__await__", "__bool__", "__call__", "__contains__",
    "__delitem__", "__enter__", "__exit__", "__getitem__", "__iter__", "__len__", "__next__", "__or__", "__setitem__",
}  # fmt: skip
#: What pydantic keeps in a model, under a name without an underscore.
_NOT_OURS = {"model_config"}


def class_items(name: str, kind: type, public: Mapping[int, str], *, promise: str, deprecated: str) -> Iterator[Item]:
    """Yield the item of a class, and those of its members; `public` has the public name of what has one."""
    mark = stability_of(kind)
    makes = mark is None or mark.constructor
    form = "class" + (_constructor(kind) if makes else "")
    if bases := list(_bases(kind, public)):
        form += f" of {', '.join(bases)}"
    initializer = vars(kind).get("__init__") if makes else None
    yield Item(name, form, promise, deprecated, deprecated_parameters(initializer) if initializer else ())
    yield from members(name, kind, public)


def members(name: str, kind: type, public: Mapping[int, str]) -> Iterator[Item]:
    """Yield the public members of a class that no public base has."""
    seen: set[str] = set()
    if issubclass(kind, enum.Enum):
        seen.update(kind.__members__)
        for member_name, member in kind.__members__.items():
            yield Item(f"{name}.{member_name}", f"member = {value_text(member.value)}")
    in_bases = {owner for base in kind.__mro__[1:] if id(base) in public for owner in base.__mro__}
    for owner in kind.__mro__:
        if not _is_ours(owner) or owner in in_bases:
            continue
        for attribute in sorted(_names(owner) - seen):
            seen.add(attribute)
            if form := _member(owner, attribute):
                function = _plain(owner, attribute)
                parameters = deprecated_parameters(function) if inspect.isfunction(function) else ()
                promise, why = _promise(owner, attribute), _deprecation(owner, attribute)
                yield Item(f"{name}.{attribute}", form, promise, why, parameters)


def _is_ours(thing: type | FunctionType) -> bool:
    return thing.__module__.partition(".")[0] == _OURS


def _names(owner: type) -> set[str]:
    # Python puts functions of its own into some classes, into an enum's for one.
    defined = {name for name, value in vars(owner).items() if not inspect.isfunction(value) or _is_ours(value)}
    names = {*defined, *inspect.get_annotations(owner), *_assigned(owner)}
    return {name for name in names if (name[0] != "_" or name in _SPECIAL) and name not in _NOT_OURS}


def _member(owner: type, name: str) -> str | None:
    value = vars(owner).get(name)
    annotation = _annotations(owner).get(name)
    if isinstance(value, property):
        return _property(cast("Callable[..., object]", value.fget)) + ("" if value.fset is None else ", settable")
    if isinstance(value, functools.cached_property):
        return _property(value.func)
    if isinstance(value, staticmethod | classmethod):
        drop = 1 if isinstance(value, classmethod) else 0
        return f"{type(value).__name__} {def_text(value.__func__, drop=drop)}"
    if inspect.isfunction(value):
        return def_text(value, drop=1)
    if inspect.isfunction(wrapped := getattr(value, "__wrapped__", None)):  # by a descriptor of ours
        return def_text(wrapped, drop=1)
    if annotation is not None:
        text = annotation_text(annotation)
        # A field is in the constructor with its default; another value is part of what the class is.
        is_constant = text.startswith("ClassVar") and name in vars(owner)
        return f"attribute: {text}" + (f" = {value_text(value)}" if is_constant else "")
    if isinstance(value, type):
        return "class"
    if name in vars(owner):
        return f"attribute = {value_text(value)}"
    return f"attribute{_assigned(owner)[name]}"


def _property(getter: Callable[..., object]) -> str:
    returned = inspect.signature(getter).return_annotation
    return "property" + ("" if returned is Parameter.empty else f": {annotation_text(returned)}")


def _annotations(kind: type) -> dict[str, object]:
    found: dict[str, object] = {}
    for owner in reversed(kind.__mro__):
        found |= inspect.get_annotations(owner)
    return found


@functools.cache
def _assigned(owner: type) -> dict[str, str]:
    """The attributes that the constructor sets, each with `: ` and its type if that is written somewhere."""
    initializer = vars(owner).get("__init__")
    if initializer is None:
        return {}
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(initializer)))
    except (OSError, TypeError):
        return {}
    tree = ast.parse(source)
    arguments = {one.arg: one.annotation for one in ast.walk(tree) if isinstance(one, ast.arg)}
    found: dict[str, str] = {}
    targets: list[ast.expr]
    annotation: ast.expr | None
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            targets, annotation = [node.target], node.annotation
        elif isinstance(node, ast.Assign):
            targets = node.targets
            annotation = arguments.get(node.value.id) if isinstance(node.value, ast.Name) else None
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                found.setdefault(target.attr, "" if annotation is None else f": {ast.unparse(annotation)}")
    return found


def _constructor(kind: type) -> str:
    if issubclass(kind, enum.Enum) or vars(kind).get("_is_protocol", False):
        return ""
    if issubclass(kind, msgspec.Struct) or hasattr(kind, "model_fields") or issubclass(kind, tuple):
        return f"({parameters_text(inspect.signature(kind).parameters.values(), _annotations(kind))})"
    for owner in kind.__mro__:
        if _is_ours(owner) and "__init__" in vars(owner):
            parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
            return f"({parameters_text(parameters)})"
    return "()" if all(_is_ours(owner) or owner in (object, Generic) for owner in kind.__mro__) else ""


def _bases(kind: type, public: Mapping[int, str]) -> Iterator[str]:
    """Yield what a user may take it for: public bases, and those of other packages."""
    for base in kind.__bases__:
        if id(base) in public:
            yield public[id(base)]
        elif _is_ours(base):
            yield from _bases(base, public)
        elif base not in (object, Generic, Protocol):
            yield base.__qualname__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}"


def _promise(owner: type, name: str) -> str:
    mark = stability_of(_plain(owner, name))
    own = mark is not None and not isinstance(vars(owner).get(name), type)
    return f"{mark.tier} {mark.since}" if mark is not None and own else ""


def _deprecation(owner: type, name: str) -> str:
    return str(getattr(_plain(owner, name), "__deprecated__", ""))


def _plain(owner: type, name: str) -> object:
    """What stands in the class, as a function if it is one."""
    value = vars(owner).get(name)
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = value if inspect.isfunction(value) else getattr(value, "__wrapped__", None)
    return value if inspect.isfunction(value) else None
