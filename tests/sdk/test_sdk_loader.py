"""Import strings, and what is said about those that name nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
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
        (
            ":Frontend",
            'Invalid import string ":Frontend", must be in format "<module>:<attribute>" or "<module>"',
        ),
        ("graph_bad:", 'Invalid import string "graph_bad:"'),
        ("graph_bad:A:B", 'Invalid import string "graph_bad:A:B"'),
        ("nomod_anywhere:Frontend", 'Failed to import module "nomod_anywhere": No module named'),
        ("graph_bad.Frontend", "did you mean graph_bad:Frontend?"),
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


@pytest.mark.parametrize("name", ["graph.v2", "v1.0/graph"])
def test_a_file_with_a_dot_in_its_path_is_no_module(write: Write, name: str) -> None:
    directory = write(name, GRAPH)
    with pytest.raises(BadGraph, match=f'"{name}.py" cannot be imported: a dot is for packages; rename the'):
        load_service(f"{name}.py:Frontend", directory)


def test_a_file_with_the_name_of_a_module_that_is_there_already_is_not_taken_for_it(write: Write) -> None:
    directory = write("random", GRAPH)
    with pytest.raises(BadGraph, match=r'"random.py" has the name of another module, random, which is imported'):
        load_service("random.py:Frontend", directory)


def test_several_roots_need_a_choice(write: Write) -> None:
    directory = write("graph_two", GRAPH + "\n@service\nclass Other(Backend): ...\n")
    with pytest.raises(BadGraph, match=r"Multiple root services found in module 'graph_two': \['Frontend', 'Other'\]"):
        load_service("graph_two", directory)


def test_of_several_roots_the_message_says_how_to_choose(write: Write) -> None:
    directory = write("graph_choice", GRAPH + "\n@service\nclass Other(Backend): ...\n")
    with pytest.raises(BadGraph, match="Please specify which service to use with '<module>:<service_name>'"):
        load_service("graph_choice", directory)


def test_services_that_depend_on_each_other_have_no_root(write: Write) -> None:
    circle = """
from dynamo.sdk import AbstractService, abstract_endpoint, depends, endpoint, service

class One(AbstractService):
    @abstract_endpoint
    async def one(self, request): ...

@service
class Two:
    one = depends(One)

@service
class Real(One):
    two = depends(Two)
    @endpoint
    async def one(self, request): ...

Two.link(Real).link(Two)
"""
    with pytest.raises(BadGraph, match="No root DynamoService found in module 'graph_circle'"):
        load_service("graph_circle", write("graph_circle", circle))


def test_linking_does_not_make_a_root_of_what_it_removes(write: Write) -> None:
    text = GRAPH + "\n@service\nclass Top:\n    frontend = depends(Frontend)\n    backend = depends(Backend)\n"
    directory = write("graph_pruned", text + "\nTop.link(Frontend).link(Middle)\n")
    assert load_service("graph_pruned", directory).name == "Top"


INTERFACE = """
from dynamo.sdk import AbstractService, abstract_endpoint, depends, endpoint, service

class Engine(AbstractService):
    @abstract_endpoint
    async def run(self, request): ...

@service
class Real(Engine):
    @endpoint
    async def run(self, request): ...

@service
class Caller:
    engine = depends(Engine)
"""


def test_an_implementation_that_could_be_linked_is_no_root(write: Write) -> None:
    assert load_service("graph_inject", write("graph_inject", INTERFACE)).name == "Caller"


def test_an_interface_is_not_served(write: Write) -> None:
    directory = write("graph_interface", INTERFACE)
    with pytest.raises(
        BadGraph, match=r'Object "Engine" .* is not a DynamoService: it is an interface, name a service'
    ):
        load_service("graph_interface:Engine", directory)


def test_a_linked_service_is_found_by_the_name_of_the_dependency(write: Write) -> None:
    directory = write("graph_follow", INTERFACE + "\nCaller.link(Real)\n")
    assert load_service("graph_follow:Caller.engine", directory).name == "Real"


def test_the_working_directory_is_current_during_the_import_only(write: Write) -> None:
    directory = write("graph_cwd", "import os\nhere = os.getcwd()\n" + GRAPH)
    before = os.getcwd()
    load_service("graph_cwd", directory)
    assert sys.modules["graph_cwd"].here == directory
    assert os.getcwd() == before


def test_the_working_directory_and_the_current_one_are_searched(write: Write, tmp_path: Path) -> None:
    write("project/graph_path", "import helper_of_current_directory\n" + GRAPH)
    write("helper_of_current_directory", "")
    with chdir(tmp_path):
        assert load_service("graph_path", str(tmp_path / "project")).name == "Frontend"
    assert sys.path.index(str(tmp_path / "project")) < sys.path.index(str(tmp_path))


def test_modules_that_import_each_other_are_loaded(write: Write) -> None:
    write("ring_back", "from dynamo.sdk import endpoint, service\nimport ring_front\n" + GRAPH)
    directory = write("ring_front", "import ring_back\nfrom ring_back import Frontend\n")
    assert load_service("ring_front:Frontend", directory).name == "Frontend"


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
