"""The source of a class, as a tree: what its methods say, without running them.

Only what is certainly the source of the class is returned. A class that was made at run time, or whose file is
gone or was changed meanwhile, has none.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType

Function = ast.FunctionDef | ast.AsyncFunctionDef

_FILES_KEPT = 8


@dataclass(frozen=True, slots=True)
class ClassSource:
    """A class as it is written."""

    cls: type
    node: ast.ClassDef
    file: str

    def methods(self) -> Iterator[Function]:
        """Yield the functions of the class body, also those that stand under a condition."""
        return (node for node in _of_body(self.node) if isinstance(node, Function))

    def assigned_again(self) -> set[str]:
        """Return the names that the class body assigns more than once, such as under a condition and its else."""
        names = [node.id for node in _of_body(self.node) if isinstance(node, ast.Name) and not _is_read(node)]
        return {name for name in names if names.count(name) > 1}

    def place(self, node: ast.expr | ast.stmt) -> str:
        """Say where a part of the class stands: `graph.py:14`."""
        return place(self.file, node.lineno)


def place(file: str, line: int) -> str:
    """Say where something stands, from the current directory on if it lies below it."""
    relative = os.path.relpath(file)
    return f"{file if relative.startswith('..') else relative}:{line}"


def source_of(cls: type) -> ClassSource | None:
    """Return the source of a class. None if it cannot be found for certain."""
    for function in functions_of(cls):
        if function.__qualname__ != f"{cls.__qualname__}.{function.__name__}":
            continue  # borrowed from another class
        file = function.__code__.co_filename
        tree = _tree(file, "".join(linecache.getlines(file, function.__globals__)))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__ and _holds(node, function):
                return ClassSource(cls, node, file)
        return None
    return None


def functions_of(cls: type) -> Iterator[FunctionType]:
    """Yield the plain functions of a class itself, beneath decorators that say what they wrap."""
    for value in vars(cls).values():
        function = plain_function(value)
        if function is not None:
            yield function


def plain_function(value: object) -> FunctionType | None:
    """Return the function beneath a method, if it can be told."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not isinstance(value, FunctionType):
        return None
    function = inspect.unwrap(value)
    return function if isinstance(function, FunctionType) else None


def is_at(node: Function, function: FunctionType) -> bool:
    """Whether the function was made from this part of the source."""
    first_line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return node.name == function.__code__.co_name and first_line == function.__code__.co_firstlineno


def names_in(code: CodeType) -> frozenset[str]:
    """Return the names of attributes and globals that a function mentions, with those of the functions in it."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*inner)


def _holds(node: ast.ClassDef, function: FunctionType) -> bool:
    return any(isinstance(child, Function) and is_at(child, function) for child in _of_body(node))


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _of_body(node: ast.ClassDef) -> Iterator[ast.AST]:
    """Everything in the body of a class that is not inside a function or another class."""
    waiting: list[ast.AST] = list(node.body)
    for child in waiting:
        yield child
        if not isinstance(child, Function | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(child)


@functools.lru_cache(_FILES_KEPT)
def _tree(file: str, text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the user's source: said when it was imported
        try:
            return ast.parse(text, file)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ast.Module([], [])  # no Python: the file was changed, or something else is in its place
