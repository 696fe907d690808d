"""Every public object says what it is, and its functions their units, what None means, and the errors they raise.

Public is what `__all__` or `__former__` of a public module names, with the public methods, properties and fields of
its classes. A machine cannot tell whether a sentence is true, so what is checked is that there is one:

- Each has a docstring, or a `#:` comment where it is a plain value. A method may have that of the base it overrides.
- A number has its unit in its name, or is named in the docstring of its function or class; one that may be None is
  named there in any case. It may be said elsewhere if the docstring points there: "all else is as in `serve`". A field
  of a class may have a comment or a description of its own instead.
- An exception that a function raises itself is named in its docstring, or in that of its class.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodType

import pytest
from scripts._api.names import public_modules

SOURCE = Path(__file__).parents[1] / "src"

_UNITS = (
    "bytes s ms us tokens token blocks requests workers items events messages characters lines percent perc ratio "
    "fraction prob weight index indices rank count id ids port ports code hash hashes size layers heads num total"
)
#: Words of a name that say what a number counts, or that it has no unit.
UNITS = frozenset(_UNITS.split())
#: Sampling, as the whole field writes it: numbers that have no unit.
UNITLESS = frozenset(["temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty"])

NUMBER = re.compile(r"\b(int|float)\b")
#: What a type is made of: a sequence or a function of numbers is no number.
PARTS = re.compile(r"\[.*\]")


@dataclass(frozen=True)
class Public:
    """A public object: where it is found, itself, and the class that it is a member of."""

    name: str
    value: object
    owner: type | None = None

    @property
    def text(self) -> str:
        """Its docstring, and those of its class and the bases of that."""
        bases = [] if self.owner is None else [base for base in self.owner.__mro__ if is_ours(base)]
        return "\n".join(inspect.getdoc(one) or "" for one in (self.value, *bases))

    @property
    def last_name(self) -> str:
        return self.name.rpartition(".")[2]


def public_objects() -> Iterator[Public]:
    """Yield every public object once, under the first of its names."""
    seen: set[int] = set()
    for module in public_modules(SOURCE):
        door = importlib.import_module(module)
        for name in (*door.__all__, *getattr(door, "__former__", ())):
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                value = getattr(door, name)
            if id(value) not in seen:
                seen.add(id(value))
                yield Public(f"{module}.{name}", value)
                if is_ours(value) and isinstance(value, type):
                    yield from members(f"{module}.{name}", value)


def members(name: str, cls: type) -> Iterator[Public]:
    """Yield the public methods and properties that a class has of ours, and how it is made if we wrote that."""
    for attribute in dir(cls):
        value = inspect.getattr_static(cls, attribute)
        function = function_of(value)
        if function is None or not is_ours(function):
            continue
        if not attribute.startswith("_") or (attribute == "__init__" and is_written(function)):
            yield Public(f"{name}.{attribute}", value, cls)


def is_ours(value: object) -> bool:
    return str(getattr(value, "__module__", "")).split(".")[0] == "dynamo"


def is_written(function: FunctionType) -> bool:
    """Whether it stands in the source: dataclasses and their like are made by a program."""
    return not function.__code__.co_filename.startswith("<")


def function_of(value: object) -> FunctionType | None:
    """The function inside a method of any kind; None if it is something else."""
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, staticmethod | classmethod | MethodType):
        value = value.__func__
    inside = inspect.unwrap(value) if callable(value) else None
    return inside if isinstance(inside, FunctionType) else None


def documented(public: Public) -> bool:
    value = public.value
    if public.owner is not None and public.name.endswith(".__init__"):
        return True  # by its class
    if isinstance(value, type):
        # A dataclass without one is given its signature.
        return bool(value.__dict__.get("__doc__")) and not str(value.__doc__).startswith(f"{value.__name__}(")
    if public.owner is not None:
        return bool(inherited_doc(public))
    if function := function_of(value):
        return bool(function.__doc__)
    if is_ours(type(value)):
        return bool(type(value).__doc__)
    return plain_value_is_documented(public.name)


def inherited_doc(public: Public) -> str | None:
    assert public.owner is not None
    found = (getattr(base.__dict__.get(public.last_name), "__doc__", None) for base in public.owner.__mro__)
    return next((text for text in found if text), None)


def plain_value_is_documented(name: str) -> bool:
    """Whether a `#:` comment stands above the assignment, or it is one of several names of something documented."""
    package, last = name.split(".")[1], name.rpartition(".")[2]
    assigned = re.compile(rf"^#: .*\n(?:#.*\n)*{last}\b(?::.*)? = |^{last} = \w+$", re.MULTILINE)
    return any(assigned.search(path.read_text()) for path in (SOURCE / "dynamo" / package).rglob("*.py"))


def unclear_numbers(public: Public) -> Iterator[str]:
    """Yield the numbers of a function, or fields of a class, of which nobody says what they count."""
    if isinstance(public.value, type):
        for name, annotation in fields(public.value):
            if is_unclear(public, name, annotation):
                yield name
        return
    function = None if isinstance(public.value, property) else function_of(public.value)
    if function is None:
        return
    for parameter in inspect.signature(function).parameters.values():
        if not parameter.name.startswith("_") and is_unclear(public, parameter.name, str(parameter.annotation)):
            yield parameter.name


def fields(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the fields of a dataclass, a struct or a model, with their types as they are written."""
    if not any(hasattr(cls, mark) for mark in ("__dataclass_fields__", "__struct_fields__", "model_fields")):
        return
    for base in cls.__mro__:
        for name, annotation in inspect.get_annotations(base).items() if is_ours(base) else ():
            if not name.startswith("_") and "ClassVar" not in str(annotation):
                yield name, str(annotation)


def is_unclear(public: Public, name: str, annotation: str) -> bool:
    if not NUMBER.search(PARTS.sub("", annotation)):
        return False
    words = name.lower().split("_")
    has_unit = bool(UNITS.intersection(words)) or name in UNITLESS
    if has_unit and "None" not in annotation:
        return False
    return not any(re.search(rf"\b{name}\b", one.text) or has_comment(one.value, name) for one in read(public))


def read(public: Public, further: int = 2) -> Iterator[Public]:
    """Yield it, what its docstring points at, and what that does: names in backticks, of its class or of ours."""
    yield public
    for name in re.findall(r"`(?:\w+\.)*(\w+)`", public.text) if further else ():
        if public.owner is not None and name != public.last_name and hasattr(public.owner, name):
            yield Public(f"{public.name}.{name}", inspect.getattr_static(public.owner, name))
        for pointed_at in by_last_name().get(name, ()):
            yield from read(pointed_at, further - 1)


@functools.cache
def by_last_name() -> dict[str, list[Public]]:
    named: dict[str, list[Public]] = {}
    for public in public_objects():
        named.setdefault(public.last_name, []).append(public)
    return named


def has_comment(value: object, name: str) -> bool:
    """Whether a field of a class has a description, or a comment: beside it, above it, or above the group it is in."""
    if not isinstance(value, type):
        return False
    described = getattr(value, "model_fields", {}).get(name)
    if described is not None and described.description:
        return True
    for base in value.__mro__:
        if name not in inspect.get_annotations(base) or not is_ours(base):
            continue
        lines = inspect.getsource(base).splitlines()
        at = next(number for number, line in enumerate(lines) if re.match(rf"    {name}\s*:", line))
        if "# " in lines[at]:
            return True
        while re.match(r"    \w+\s*:|        |    \)", lines[at]):
            at -= 1
        return lines[at].lstrip().startswith("#")
    return False


def unnamed_errors(public: Public) -> Iterator[str]:
    """Yield the exceptions that a function raises itself and does not speak of."""
    function = function_of(public.value)
    if function is None or not is_ours(function):
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise):
            continue
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if isinstance(raised, ast.Name):
            error = function.__globals__.get(raised.id, getattr(builtins, raised.id, None))
            is_error = isinstance(error, type) and issubclass(error, Exception) and error is not NotImplementedError
            if is_error and not re.search(rf"\b{raised.id}\b", public.text):
                yield raised.id


def offenders(package: str, wrong: Callable[[Public], Iterator[str]]) -> list[str]:
    return sorted(
        {
            f"{public.name}: {complaint}"
            for public in public_objects()
            if public.name.split(".")[1] == package
            for complaint in wrong(public)
        }
    )


PACKAGES = sorted({module.split(".")[1] for module in public_modules(SOURCE) if "." in module})


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_object_has_a_docstring(package: str) -> None:
    assert offenders(package, lambda public: iter(() if documented(public) else ("no docstring",))) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_number_has_a_unit_or_is_spoken_of(package: str) -> None:
    assert offenders(package, unclear_numbers) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_error_that_a_function_raises_is_named(package: str) -> None:
    assert offenders(package, unnamed_errors) == []
