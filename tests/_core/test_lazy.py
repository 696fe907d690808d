"""Names of a module that are imported when they are asked for."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DOORS = (
    "dynamo._core", "dynamo._internal", "dynamo.echo", "dynamo.entrypoint", "dynamo.frontend", "dynamo.llm",
    "dynamo.llm._entrypoint_door", "dynamo.metrics", "dynamo.mocker", "dynamo.runtime", "dynamo.transformers",
    "dynamo.vllm",
)  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package whose `Apple` is one of its modules', and whose `Fruit` is the same by an older name."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "_apples.py").write_text("class Apple: ...\n")
    (tmp_path / "shop" / "__init__.py").write_text(
        "from dynamo._core.lazy import lazy_names\n"
        "__all__ = ['Apple']\n"
        "__getattr__ = lazy_names(__name__, {'Apple': '._apples', 'Fruit': '._apples:Apple', 'sqrt': 'math'})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shop")
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_a_name_is_imported_when_it_is_asked_for_and_not_before(shop: ModuleType) -> None:
    assert "shop._apples" not in sys.modules
    assert shop.Apple is sys.modules["shop._apples"].Apple


def test_a_name_can_be_another_one_where_it_is(shop: ModuleType) -> None:
    assert shop.Fruit is shop.Apple


def test_a_name_can_be_of_another_package(shop: ModuleType) -> None:
    assert shop.sqrt(4) == 2


def test_all_names_at_once_are_those_of_all(shop: ModuleType) -> None:
    found: dict[str, object] = {}
    exec("from shop import *", found)  # noqa: S102
    assert found.keys() - {"__builtins__"} == {"Apple"}


def test_what_came_through_a_door_can_be_pickled(shop: ModuleType) -> None:
    assert pickle.loads(pickle.dumps(shop.Apple)) is shop.Apple  # noqa: S301


@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_is_not_there_fails_as_it_does_in_any_module(door: str) -> None:
    module = importlib.import_module(door)
    plain = ModuleType(door)
    with pytest.raises(AttributeError) as usual:
        _ = plain.Nonsense
    with pytest.raises(AttributeError) as caught:
        _ = module.Nonsense

    assert str(caught.value) == str(usual.value)
    assert (caught.value.name, caught.value.obj) == (usual.value.name, module)
