"""The programs beside this file, which two type checkers read in `scripts/check`, import and are what they say."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from dynamo.sdk import service_of


@pytest.mark.parametrize("program", ["modules", "services", "kv_worker"])
def test_what_a_program_imports_is_there_and_warns_of_nothing(program: str) -> None:
    importlib.import_module(f"tests.typing.{program}")


def test_older_names_import_and_warn() -> None:
    with pytest.warns(DeprecationWarning, match=r"goes with version 1\.0"):
        importlib.import_module("tests.typing.older_names")


def test_a_graph_that_is_typed_is_a_graph() -> None:
    services = importlib.import_module("tests.typing.services")
    try:
        services.link()
        assert {one.name for one in service_of(services.ServiceA).edges().values()} == {"First"}
    finally:
        del sys.modules["tests.typing.services"]


def test_every_program_is_named_here() -> None:
    here = Path(__file__).parent
    assert {path.stem for path in here.glob("*.py")} == {
        "kv_worker", "mistakes", "modules", "older_names", "services", "test_programs",
    }  # fmt: skip


def test_a_program_imports_in_a_process_of_its_own() -> None:
    script = "import tests.typing.modules, sys; print(sorted({'torch', 'transformers', 'grpc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
