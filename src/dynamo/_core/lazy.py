"""Names of a module that are imported when they are asked for, so that importing the module costs next to nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def lazy_names(module: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a module that has these names.

    The place of a name is the module that it comes from, with a dot in front if that is inside of this one:
    `._engine`, or `._engine:OTHER` if it is called otherwise there. Type checkers take a `__getattr__` for "any name is
    there", so it has to be hidden from them.
    """

    def imported(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, other = places[name].partition(":")
        return getattr(importlib.import_module(place, module), other or name)

    return imported
