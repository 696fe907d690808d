"""Names that are out of sight: they work from where they were, and say where they are."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import dynamo._internal as internal

TIMEOUT_S = 90
MOVED = [
    ("dynamo.runtime", "CancellationToken"),
    ("dynamo.runtime", "Component"),
    ("dynamo.runtime", "Context"),
    ("dynamo.runtime", "Namespace"),
    ("dynamo.llm", "ModelDeploymentCard"),
    ("dynamo.llm", "ModelRuntimeConfig"),
]


@pytest.mark.parametrize(("module", "name"), MOVED)
def test_a_name_that_has_moved_works_and_warns(module: str, name: str) -> None:
    place = importlib.import_module(module)
    message = rf"{module}\.{name} is dynamo\._internal\.{name} now, and goes from here with version 1\.0"
    with pytest.warns(DeprecationWarning, match=message) as warned:
        found = getattr(place, name)
    assert found is getattr(internal, name)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(("module", "name"), MOVED)
def test_a_name_that_has_moved_is_not_public(module: str, name: str) -> None:
    assert name not in importlib.import_module(module).__all__


@pytest.mark.parametrize("name", internal.__all__)
def test_the_door_has_what_it_names(name: str) -> None:
    assert isinstance(getattr(internal, name), type)


@pytest.mark.parametrize("module", ["dynamo.runtime", "dynamo._internal", "dynamo._core"])
def test_a_name_that_is_not_there_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nonsense'"):
        _ = importlib.import_module(module).Nonsense


def test_what_was_kept_in_etcd_is_importable_where_it_was() -> None:
    from dynamo.runtime import EtcdClient, EtcdKvCache
    from dynamo.runtime._compat import EtcdClient as Client

    assert EtcdClient is Client
    assert callable(EtcdKvCache.create)


def test_the_door_imports_what_is_asked_for_and_no_more() -> None:
    program = "import sys, dynamo._internal as door; door.Component; print('dynamo.llm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.stderr) == ("False\n", "")
