"""The public names: of every module without an underscore in its path, what is in `__all__`, and in `__former__` if it
has older names that `import *` does not ask for."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts._api.classes import class_items, members
from scripts._api.items import Item
from scripts._api.signatures import annotation_text, def_text, deprecated_parameters, value_text

from dynamo._core.stability import Stability, stability_of

_ALIASES = (types.UnionType, types.GenericAlias, type(typing.Union[int, str]), type(typing.Literal[1]))  # noqa: UP007


@dataclass(frozen=True)
class Named:
    """A public name, what it stands for, and what Python says when somebody asks for it."""

    module: types.ModuleType
    name: str
    value: object
    deprecated: str

    @property
    def path(self) -> str:
        return f"{self.module.__name__}.{self.name}"

    @property
    def mark(self) -> Stability | None:
        """Its mark: the one in the table of its module, or its own."""
        table = getattr(self.module, "__stability__", {})
        return table.get(self.name) or (stability_of(self.value) if _has_name(self.value) else None)


def public_modules(source: Path) -> Iterator[str]:
    """Yield the public modules below a folder; `__main__` is a command, and no module."""
    for path in sorted((source / "dynamo").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            yield ".".join(parts)


def named(source: Path) -> list[Named]:
    """Return every public name. Raises `AttributeError` for one in `__all__` that is not there."""
    found = []
    for path in public_modules(source):
        module = importlib.import_module(path)
        for name in (*module.__all__, *getattr(module, "__former__", ())):
            found.append(_named(module, name))
    return found


def _named(module: types.ModuleType, name: str) -> Named:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = getattr(module, name)
    moved = [str(one.message) for one in said if issubclass(one.category, DeprecationWarning)]
    own = getattr(value, "__deprecated__", "") if _has_name(value) else ""
    return Named(module, name, value, " ".join((moved or [own])[0].split()))


def name_items(found: list[Named]) -> Iterator[Item]:
    """Yield an item for each name, with the members of classes. A second name of a thing is an alias of the first."""
    first: dict[int, str] = {}
    for one in sorted(found, key=lambda one: (bool(one.deprecated), one.path.count("."), one.path)):
        if _has_name(one.value) or not isinstance(one.value, (int, float, str, bytes, tuple)):
            first.setdefault(id(one.value), one.path)
    for one in found:
        yield from _items(one, first)


def _items(one: Named, first: dict[int, str]) -> Iterator[Item]:
    promise = "" if one.mark is None else f"{one.mark.tier} {one.mark.since}"
    value = one.value
    original = first.get(id(value), one.path)
    if original != one.path:
        yield Item(one.path, f"alias of {original}", promise, one.deprecated)
    elif type(value) in _ALIASES:
        yield Item(one.path, f"type = {annotation_text(value)}", promise, one.deprecated)
    elif isinstance(value, type):
        yield from class_items(one.path, value, first, promise=promise, deprecated=one.deprecated)
    elif inspect.isroutine(value):
        yield Item(one.path, def_text(value), promise, one.deprecated, deprecated_parameters(value))
    elif isinstance(value, int | float | str | bytes | tuple):
        yield Item(one.path, f"constant: {type(value).__name__} = {value_text(value)}", promise, one.deprecated)
    else:
        yield Item(one.path, "object", promise, one.deprecated)
        yield from members(one.path, type(value), first)


def _has_name(value: object) -> bool:
    return isinstance(value, type) or inspect.isroutine(value)
