"""Import strings, and what is said about those that name nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dynamo.sdk._loader import BadGraph, GraphFailed, load_service

GRAPH = """
from dynamo.sdk import depends, dynamo_endpoint, service

@service
class Backend:
    @dynamo_endpoint
    async def generate(self, request: str): yield request

@service
class Middle:
    backend = depends(Backend)

@service
class Frontend:
    middle = depends(Middle)

number = 5
"""

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write a module under a name of this test, and forget it afterwards."""
    path, modules = list(sys.path), set(sys.modules)

    def write(name: str, text: str) -> str:
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(tmp_path)

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("import_string", "name"),
    [
        ("graph_ok", "Frontend"),
        ("graph_ok:Middle", "Middle"),
        ("graph_ok:Frontend.middle.backend", "Backend"),
        ("graph_ok.py:Backend", "Backend"),
    ],
)
def test_an_import_string_names_a_service(write: Write, import_string: str, name: str) -> None:
    assert load_service(import_string, write("graph_ok", GRAPH)).name == name


def test_a_file_in_a_folder_is_a_module_of_a_package(write: Write) -> None:
    directory = write("components/graph_deep", GRAPH)
    assert load_service("components/graph_deep.py:Frontend", directory).name == "Frontend"
    assert load_service("components.graph_deep:Frontend", directory).name == "Frontend"


@pytest.mark.parametrize(
    ("import_string", "message"),
    [
        (":Frontend", 'Invalid import string ":Frontend"'),
        ("graph_bad:", 'Invalid import string "graph_bad:"'),
        ("graph_bad:A:B", 'Invalid import string "graph_bad:A:B"'),
        ("nomod_anywhere:Frontend", 'Failed to import module "nomod_anywhere": No module named'),
        ("graph_bad.yaml:A", 'Invalid module extension ".yaml", only ".py" files are supported'),
        ("nofile.py:A", 'Module "nofile.py" not found in working directory'),
        ("../graph_bad.py:A", "not found in working directory"),
        ("graph_bad:Nope", 'Attribute "Nope" not found in "graph_bad"; its services are Backend, Middle, Frontend'),
        ("graph_bad:number", 'Object "number" in module "graph_bad" is not a DynamoService'),
        ("graph_bad:Frontend.nope", 'Service "Frontend" has no dependency "nope"; it has [\'middle\']'),
        ("graph_bad:number.nope", 'Attribute "number.nope" not found'),
    ],
)
def test_a_bad_import_string_says_why(write: Write, import_string: str, message: str) -> None:
    directory = write("graph_bad", GRAPH)
    with pytest.raises(BadGraph) as raised:
        load_service(import_string, directory)
    assert message in str(raised.value)


def test_several_roots_need_a_choice(write: Write) -> None:
    directory = write("graph_two", GRAPH + "\n@service\nclass Other(Backend): ...\n")
    with pytest.raises(BadGraph, match=r"Multiple root services found in module 'graph_two': \['Frontend', 'Other'\]"):
        load_service("graph_two", directory)


def test_a_module_without_services_says_so(write: Write) -> None:
    with pytest.raises(BadGraph, match='No DynamoService instances found in module "graph_none"'):
        load_service("graph_none", write("graph_none", "x = 1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def load():\n    raise ValueError('no such model')\n\nload()\n",
            "ValueError: no such model (FILE:2 in load)",
        ),
        ("import surely_missing\n", "No module named 'surely_missing' (FILE:1)"),
        ("x = (\n", "SyntaxError: '(' was never closed (FILE:1)"),
        ("raise SystemExit(3)\n", "SystemExit: 3 (FILE:1)"),
        ("from dynamo.sdk import service\n@service(worker=1)\nclass A: ...\n", "did you mean 'workers'? (FILE:2)"),
    ],
)
def test_a_module_that_raises_shows_where(write: Write, text: str, message: str) -> None:
    directory = write("graph_raises", text)
    with pytest.raises(GraphFailed) as raised:
        load_service("graph_raises", directory)
    assert str(raised.value).endswith(message.replace("FILE", f"{directory}/graph_raises.py"))


def test_links_of_a_graph_module_are_in_force(write: Write) -> None:
    directory = write("graph_linked", GRAPH + "\nFrontend.link(Middle)\n")
    assert load_service("graph_linked:Frontend.middle", directory).edges() == {}
