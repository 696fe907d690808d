"""Which names of some packages a file of Python uses, read from its text: nothing of it is run.

A name counts where it is imported, and where it is reached through a module that was: `llm.KvRouter`.
"""

from __future__ import annotations

import ast
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_BYTES_MAX = 4 << 20
NOTEBOOK = ".ipynb"


@dataclass(frozen=True, order=True)
class Use:
    """A name in a line of a file."""

    line: int
    #: The whole of it, with the modules: `dynamo.llm.KvRouter`; of a method, `.` and its name.
    name: str
    #: What a call of it is given by this name; `*` for whatever it is given by place.
    argument: str = ""


class NotReadableError(Exception):
    """It is no Python that can be read; says why."""


def uses_in(path: Path, packages: frozenset[str]) -> list[Use]:
    """Return what a file uses of these packages, in order. Raises `NotReadableError`."""
    try:
        text = _text_of(path)
        if path.suffix == NOTEBOOK:
            _refuse_notebook(text, packages)
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about the user's code
            tree = ast.parse(text)
        return sorted(set(_Reader(packages).read(tree)))
    except OSError as error:
        raise NotReadableError(error.strerror or str(error)) from error
    except SyntaxError as error:
        raise NotReadableError(f"line {error.lineno}: {error.msg}" if error.lineno else error.msg) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotReadableError(f"it is no Python that can be read: {error or type(error).__name__}") from error


def _text_of(path: Path) -> bytes:
    """Read a file that is one: a pipe would have us wait, and a device have no end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotReadableError("it is no regular file")
        text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise NotReadableError(f"it has {path.stat().st_size} bytes; files of up to {FILE_BYTES_MAX} are read")
    return text


def _refuse_notebook(text: bytes, packages: frozenset[str]) -> None:
    """Say of a notebook that may use the packages that it was not read: its text is no Python, but looks like it."""
    if any(package.encode() in text for package in packages):
        raise NotReadableError("it is a notebook; save it as a script (jupyter nbconvert --to script) and name that")


class _Reader:
    """Reads one file."""

    def __init__(self, packages: frozenset[str]) -> None:
        self._packages = packages
        # The names that stand for modules and what is in them.
        self._known: dict[str, str] = {}

    def read(self, tree: ast.Module) -> Iterator[Use]:
        nodes = list(ast.walk(tree))
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from self._import(node)
            elif isinstance(node, ast.ImportFrom):
                yield from self._import_from(node)
        if not self._known:
            return
        inner = {node.value for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and node not in inner and (name := self._whole(node)):
                yield Use(node.lineno, name)
            if isinstance(node, ast.Call):
                yield from self._call(node)

    def _import(self, node: ast.Import) -> Iterator[Use]:
        for alias in node.names:
            if alias.name.partition(".")[0] in self._packages:
                top = alias.name.partition(".")[0]
                self._known[alias.asname or top] = alias.name if alias.asname else top
                yield Use(node.lineno, alias.name)

    def _import_from(self, node: ast.ImportFrom) -> Iterator[Use]:
        module = node.module or ""
        if node.level or module.partition(".")[0] not in self._packages:
            return
        for alias in node.names:
            name = module if alias.name == "*" else f"{module}.{alias.name}"
            if alias.name != "*":
                self._known[alias.asname or alias.name] = name
            yield Use(alias.lineno, name)

    def _call(self, node: ast.Call) -> Iterator[Use]:
        name = self._whole(node.func)
        if name is None and isinstance(node.func, ast.Attribute):
            name = f".{node.func.attr}"
            yield Use(node.func.end_lineno or node.lineno, name)
        if name is None:
            return
        if node.args:
            yield Use(node.args[0].lineno, name, "*")
        for keyword in node.keywords:
            if keyword.arg is not None:
                yield Use(keyword.lineno, name, keyword.arg)

    def _whole(self, node: ast.expr) -> str | None:
        """The whole name of `a.b.c`, if `a` is one that was imported from the packages."""
        parts: list[str] = []
        value = node
        while isinstance(value, ast.Attribute):
            parts.append(value.attr)
            value = value.value
        if not isinstance(value, ast.Name) or value.id not in self._known:
            return None
        return ".".join([self._known[value.id], *reversed(parts)])
