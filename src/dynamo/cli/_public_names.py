"""What is public here, read from the text of the modules: importing them takes long, and more than is installed."""

from __future__ import annotations

import ast
import difflib
import functools
from pathlib import Path

import dynamo


@functools.cache
def public_names(module: str) -> frozenset[str] | None:
    """Return the names in `__all__` of a module of `dynamo`; None if there is no such module."""
    for root in dynamo.__path__:
        at = Path(root).joinpath(*module.split(".")[1:])
        for path in (at / "__init__.py", at.with_suffix(".py")):
            if path.is_file():
                return frozenset(_all_of(ast.parse(path.read_bytes())))
        if at.is_dir():
            return frozenset()
    return None


def is_module(name: str) -> bool:
    """Whether it is the name of a module of `dynamo`."""
    return public_names(name) is not None


def resembling(module: str, name: str) -> str | None:
    """A name of the module that somebody may have meant."""
    found = difflib.get_close_matches(name, sorted(public_names(module) or ()), n=1)
    return found[0] if found else None


def _all_of(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets
        ):
            return list(map(str, ast.literal_eval(node.value)))
    return []
