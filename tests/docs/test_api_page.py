"""The page on the public API says of each name what is true of it."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest

import dynamo._internal
from dynamo.cli._public_names import public_names

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", re.MULTILINE)
_MODULE = re.compile(r"`(dynamo(?:\.\w+)+)`")
ROWS = {name: (what, where) for name, what, where in _ROW.findall(PAGE.read_text())}
MODULES = ("dynamo.runtime", "dynamo.llm", "dynamo.metrics", "dynamo.sdk", "dynamo.runtime.logging")


def names(what: str) -> list[str]:
    return [name for name, (kind, _) in ROWS.items() if kind == what]


def places_of(name: str) -> list[str]:
    """The public modules that have it, among the older names, too."""
    former = {module: getattr(importlib.import_module(module), "__former__", ()) for module in MODULES}
    return [module for module in MODULES if name in (public_names(module) or ()) or name in former[module]]


def warnings_of_use(module: str, name: str) -> list[str]:
    """What Python says to who imports a name, and what its type says to type checkers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = getattr(importlib.import_module(module), name)
    deprecated = getattr(found, "__deprecated__", None)
    return [str(warning.message) for warning in caught] + ([] if deprecated is None else [deprecated])


def test_every_name_has_a_fate_that_is_explained() -> None:
    assert {what for what, _ in ROWS.values()} == {"public", "internal", "unified", "open"}
    assert len(ROWS) == 69


@pytest.mark.parametrize("name", names("public"))
def test_a_public_name_is_where_the_page_says_without_a_warning(name: str) -> None:
    [module] = _MODULE.findall(ROWS[name][1])
    assert module in places_of(name)
    assert warnings_of_use(module, name) == []


@pytest.mark.parametrize("name", names("internal"))
def test_an_internal_name_is_behind_the_door_and_warns_elsewhere(name: str) -> None:
    assert name in dynamo._internal.__all__
    assert warnings_of_use("dynamo._internal", name) == []
    for module in places_of(name):
        assert any(f"dynamo._internal.{name}" in said for said in warnings_of_use(module, name))


@pytest.mark.parametrize("name", names("unified"))
def test_a_unified_name_works_and_names_its_successor(name: str) -> None:
    [successor] = _MODULE.findall(ROWS[name][1])
    module, _, successor_name = successor.rpartition(".")
    assert successor_name in (public_names(module) or ())
    [place] = places_of(name)
    said = warnings_of_use(place, name)
    assert said
    assert all(successor_name in one and "1.0" in one for one in said)


@pytest.mark.parametrize("name", names("open"))
def test_an_open_name_is_nowhere(name: str) -> None:
    assert places_of(name) == []
    assert not any(hasattr(importlib.import_module(module), name) for module in MODULES)
