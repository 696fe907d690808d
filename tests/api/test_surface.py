"""What the file of public names has of a module: every kind of thing, in one line each."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts._api.items import Item, owners, read, surface, text_of, tier_of
from scripts._api.names import Named, name_items

SOURCE = '''
"""An example."""

from __future__ import annotations

import enum
import math
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol, overload

import msgspec
import pydantic
from typing_extensions import deprecated

from dynamo._core.stability import Stability, Tier, beta, stable

__all__ = [
    "LIMIT", "Alias", "Colour", "Data", "Handle", "Kind", "Message", "Model", "Pair", "Shape", "Thing", "give", "later",
    "old", "other", "say", "turn",
]
__stability__ = {"LIMIT": Stability(Tier.STABLE, "0.1"), "Kind": Stability(Tier.BETA, "0.2")}

LIMIT = 20
Kind = Literal["a", "b"]


@beta(since="0.2")
def give(first: int, /, second: str = "x", *rest: object, third: float = math.inf, **more: int) -> dict:
    return {}


async def later(environ: Mapping[str, str] = os.environ, *, kind: Colour | None = None) -> None: ...


async def say() -> AsyncIterator[int]:
    yield 1


@deprecated("old is give now, and goes with version 1.0")
def old() -> None: ...


other = give


class Colour(enum.Enum):
    RED = "r"


class _Base:
    """Private."""

    def inherited(self) -> int:
        return 1

    def _hidden(self) -> None: ...


@stable(since="0.1")
class Thing(_Base):
    """Public."""

    code: ClassVar[str] = "thing"
    plain = 3

    def __init__(self, size: int = 3) -> None:
        self.size = size
        self.names: list[str] = []
        self._secret = 1

    def __len__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return True

    @property
    def width(self) -> float:
        return 1.0

    @width.setter
    def width(self, value: float) -> None: ...

    @classmethod
    def make(cls, text: str) -> Thing:
        return cls()

    @staticmethod
    def check(text: str) -> None: ...

    @beta(since="0.3")
    async def grow(self, by: int) -> None: ...

    @deprecated("shrink is grow now, and goes with version 1.0")
    def shrink(self) -> None: ...


Alias = Thing


class Either:
    """A method of its own kind."""

    def __init__(self, method):
        self.__wrapped__ = method

    def __get__(self, thing, owner): ...


@stable(since="0.1", constructor=False)
class Handle(Thing):
    def __init__(self, core: object) -> None: ...

    @Either
    @beta(since="0.4")
    def either(self, size: int = 3) -> int: ...


@dataclass(frozen=True)
class Data:
    count: int
    names: list[str] = field(default_factory=list)


class Message(msgspec.Struct, tag=1):
    count: int
    names: list[str] = []


class Model(pydantic.BaseModel):
    count: int = 3


class Pair(NamedTuple):
    left: int
    right: Thing | None = None


class Shape(Protocol):
    def area(self) -> float: ...


@overload
def turn(by: int) -> int: ...
@overload
@deprecated("leave fast out")
def turn(by: int, fast: bool) -> int: ...
@stable(since="0.1")
def turn(by: int, fast: bool = False) -> int:
    return by
'''

EXPECTED = """
LIMIT: constant: int = 20  # stable 0.1
Alias: class(size: int = 3)  # stable 0.1
Alias.__len__: def() -> int
Alias.check: staticmethod def(text: str) -> None
Alias.code: attribute: ClassVar[str] = 'thing'
Alias.grow: async def(by: int) -> None  # beta 0.3
Alias.inherited: def() -> int
Alias.make: classmethod def(text: str) -> Thing
Alias.names: attribute: list[str]
Alias.plain: attribute = 3
Alias.shrink: def() -> None  # deprecated: shrink is grow now, and goes with version 1.0
Alias.size: attribute: int
Alias.width: property: float, settable
Colour: class of enum.Enum
Colour.RED: member = 'r'
Data: class(count: int, names: list[str] = ...)
Data.count: attribute: int
Data.names: attribute: list[str]
Handle: class of dynamo._example.Alias  # stable 0.1
Handle.either: def(size: int = 3) -> int  # beta 0.4
Kind: type = Literal['a', 'b']  # beta 0.2
Message: class(count: int, names: list[str] = ...) of msgspec.Struct
Message.count: attribute: int
Message.names: attribute: list[str]
Model: class(*, count: int = 3) of pydantic.main.BaseModel
Model.count: attribute: int
Pair: class(left: int, right: Thing | None = None) of tuple
Pair.left: attribute: int
Pair.right: attribute: Thing | None
Shape: class
Shape.area: def() -> float
Thing: alias of dynamo._example.Alias  # stable 0.1
give: def(first: int, /, second: str = 'x', *rest: object, third: float = inf, **more: int) -> dict  # beta 0.2
later: async def(environ: Mapping[str, str] = ..., *, kind: Colour | None = None) -> None
old: def() -> None  # deprecated: old is give now, and goes with version 1.0
other: alias of dynamo._example.give  # beta 0.2
say: def() -> AsyncIterator[int]
turn: def(by: int, fast: bool = False) -> int  # stable 0.1; deprecated parameters: fast
"""


@pytest.fixture
def example(tmp_path: Path) -> Iterator[list[Named]]:
    file = tmp_path / "_example.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("dynamo._example", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dynamo._example"] = module
    try:
        spec.loader.exec_module(module)
        values = [(name, getattr(module, name)) for name in module.__all__]
        yield [Named(module, name, value, getattr(value, "__deprecated__", "")) for name, value in values]
    finally:
        del sys.modules["dynamo._example"]


def test_every_kind_of_thing_has_its_line(example: list[Named]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        items = surface(name_items(example))
    lines = text_of(items).splitlines()
    expected = [f"dynamo._example.{line}" for line in EXPECTED.strip().splitlines()]
    assert sorted(lines) == sorted(expected)


def test_a_file_is_read_back_as_it_was(example: list[Named], tmp_path: Path) -> None:
    items = surface(name_items(example))
    (tmp_path / "file.txt").write_text(text_of(items))
    assert read(tmp_path / "file.txt") == items
    assert read(tmp_path / "none.txt") == {}


@pytest.mark.parametrize(
    "item",
    [
        Item("a.B", "class"),
        Item("a.B", "class", "stable 0.1"),
        Item("a.B", "class", "", "gone: soon"),
        Item("a.b", "def(text: str = '#: ') -> None", "beta 0.1", "it is c now; use that"),
        Item("dynamo run --force", "option on or off = False", "stable 0.1"),
    ],
)
def test_a_line_is_read_as_what_wrote_it(item: Item) -> None:
    assert Item.parse(item.line()) == item


def test_a_member_has_the_tier_of_its_owner() -> None:
    items = surface(
        [Item("a.B", "class", "beta 0.1"), Item("a.B.c", "def()"), Item("dynamo run", "command", "stable 1")]
    )
    assert tier_of(items["a.B.c"], items) == "beta"
    assert tier_of(Item("dynamo run --x", "option"), items) == "stable"
    assert tier_of(Item("c.d", "def()"), items) == ""


def test_the_owners_of_a_name_are_what_it_is_in() -> None:
    assert list(owners("a.b.C.d")) == ["a.b.C", "a.b", "a"]
    assert list(owners("dynamo run --x")) == ["dynamo run", "dynamo"]
