"""`dynamo doctor --imports`: what is said of code that was written for something else."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from dynamo.cli._app import app
from dynamo.cli._code_names import FILE_BYTES_MAX
from dynamo.cli._doctor_finding import Level, lines
from dynamo.cli._doctor_imports import files_of, look_at_code
from dynamo.cli._moved_names import ARGUMENTS, BENTOML, DYNAMO, METHODS
from dynamo.cli._public_names import is_module, public_names
from dynamo.metrics._compat import RuntimeMetrics
from dynamo.runtime import Endpoint


def said_of(directory: Path, code: str) -> list[str]:
    """What is said of a file, without where it is."""
    path = directory / "code.py"
    path.write_text(code)
    return [line.replace(f"{path}:", "") for line in lines(look_at_code([path]))]


def test_code_that_is_up_to_date_has_nothing_to_change(tmp_path: Path) -> None:
    code = "from dynamo.llm import KvRouter, KvIndexer\nfrom dynamo.sdk import service\nimport dynamo.runtime\n"
    assert said_of(tmp_path, code) == ["ok    imports  1 file read, nothing has to change"]


def test_an_older_name_is_told_with_its_successor_and_how_long_it_works(tmp_path: Path) -> None:
    assert said_of(tmp_path, "import os\nfrom dynamo.llm import KvPushRouter\n") == [
        "warn  2  dynamo.llm.KvPushRouter is an older name. Write dynamo.llm.KvRouter before version 1.0"
    ]


def test_a_name_that_is_not_here_is_told_with_what_there_is(tmp_path: Path) -> None:
    [line] = said_of(tmp_path, "from dynamo.llm import UnaryChatModel\n")
    assert line == "fail  1  dynamo.llm.UnaryChatModel is not here. Write dynamo.llm.HttpAsyncEngine"


def test_what_is_within_something_that_is_not_here_is_not_here_either(tmp_path: Path) -> None:
    [line] = said_of(tmp_path, "from dynamo.common.backend.engine import BaseEngine\n")
    assert line.startswith("fail  1  dynamo.common is not here. Write dynamo.llm")


def test_a_name_that_nothing_is_known_of_has_what_it_resembles(tmp_path: Path) -> None:
    assert said_of(tmp_path, "from dynamo.llm import KvRuter\n") == [
        "fail  1  dynamo.llm has no KvRuter. Did you mean KvRouter?"
    ]
    assert said_of(tmp_path, "from dynamo.llm import Zzz\n") == [
        "fail  1  dynamo.llm has no Zzz. See docs/api.md for what there is"
    ]


def test_what_is_not_public_is_told(tmp_path: Path) -> None:
    [line] = said_of(tmp_path, "from dynamo._core.errors import DynamoError\n")
    assert line.startswith("warn  1  dynamo._core.errors is not public. It may change without notice")


def test_what_others_have_in_the_core_is_told_with_its_public_place(tmp_path: Path) -> None:
    assert said_of(tmp_path, "from dynamo._core import Client, Nothing, log_message\n") == [
        "fail  1  dynamo._core has no Client. Write dynamo.runtime.Client",
        "fail  1  dynamo._core has no Nothing. See docs/api.md for what there is",
        "warn  1  dynamo._core is not public. It may change without notice: see docs/api.md for what is",
    ]


def test_an_attribute_of_a_name_that_is_gone_is_told(tmp_path: Path) -> None:
    [line] = said_of(tmp_path, "from dynamo.llm import ModelType\n\nkind = ModelType.Backend\n")
    assert line.startswith("fail  3  dynamo.llm.ModelType.Backend is not here. Write ModelType.Chat")


def test_a_folder_without_code_is_no_success(tmp_path: Path) -> None:
    [finding] = look_at_code([tmp_path])
    assert (finding.level, finding.what) == (Level.WARN, "no Python file is there")


@pytest.mark.parametrize(
    "code",
    [
        "import dynamo.llm\n\ndynamo.llm.KvPushRouter()\n",
        "import dynamo.llm as models\n\nmodels.KvPushRouter()\n",
        "from dynamo import llm\n\nllm.KvPushRouter()\n",
        "import dynamo\n\ndynamo.llm.KvPushRouter.generate()\n",
    ],
)
def test_a_name_is_found_through_its_module(tmp_path: Path, code: str) -> None:
    [line] = said_of(tmp_path, code)
    assert line.startswith("warn  3  dynamo.llm.KvPushRouter is an older name")


def test_a_name_in_parentheses_is_told_at_its_own_line(tmp_path: Path) -> None:
    [line] = said_of(tmp_path, "from dynamo.llm import (\n    KvRouter,\n    KvPushRouter,\n)\n")
    assert line.startswith("warn  3 ")


def test_older_methods_are_told_where_dynamo_is_used(tmp_path: Path) -> None:
    code = "def ids(client):\n    return client.endpoint_ids()\n"
    assert said_of(tmp_path, code) == ["ok    imports  1 file read, nothing has to change"]
    assert said_of(tmp_path, "import dynamo.runtime\n" + code) == [
        "warn  3  endpoint_ids() is an older name. Write instance_ids before version 1.0"
    ]


def test_code_for_bentoml_is_told_what_is_here(tmp_path: Path) -> None:
    code = "import bentoml\n\n\n@bentoml.service\nclass Summary:\n    @bentoml.api\n    def run(self): ...\n"
    assert said_of(tmp_path, code) == [
        "fail  1  bentoml is BentoML's. Write dynamo.sdk",
        "fail  4  bentoml.service is BentoML's. Write dynamo.sdk.service",
        "fail  6  bentoml.api is BentoML's. Write dynamo.sdk.api, or dynamo.sdk.dynamo_endpoint for callers that are "
        "services",
    ]


def test_the_folders_of_an_environment_are_not_read(tmp_path: Path) -> None:
    for folder in (".git", "__pycache__", "node_modules", "env/lib", "mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "code.py").touch()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert list(files_of([tmp_path])) == [tmp_path / "mine" / "code.py"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"def (\n", "line 1: "),
        (b"\0", "null bytes"),
        (b"x = " + b"(" * 5000, ""),
        (b"\xff\n", "line"),
        (b"#" * (FILE_BYTES_MAX + 1), f"it has {FILE_BYTES_MAX + 1} bytes; files of up to {FILE_BYTES_MAX} are read"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "bad.py").write_bytes(content)
    [finding] = look_at_code([tmp_path])
    assert finding.level is Level.FAIL
    assert finding.what.startswith("it could not be read: ")
    assert why in finding.what


@given(st.text() | st.from_regex(r"(from|import) dynamo(\.\w*)*( import [\w, *()]*)?"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_file_is_too_odd(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.py").write_text(text, errors="replace")
    assert look_at_code([tmp_path])


@pytest.mark.parametrize("module", ["dynamo.runtime", "dynamo.llm", "dynamo.metrics", "dynamo.sdk"])
def test_a_name_is_older_where_its_import_or_itself_warns_and_nowhere_else(tmp_path: Path, module: str) -> None:
    former = getattr(importlib.import_module(module), "__former__", ())
    for name in sorted({*(public_names(module) or ()), *former}):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            value = getattr(importlib.import_module(module), name)
        is_older = bool(warned) or "__deprecated__" in getattr(value, "__dict__", ())
        assert ("is an older name" in said_of(tmp_path, f"from {module} import {name}\n")[0]) is is_older, name


def test_arguments_that_are_older_or_gone_are_told_at_their_own_line(tmp_path: Path) -> None:
    code = """
import dynamo.runtime as rt
from dynamo.runtime import dynamo_worker

@dynamo_worker(static=False)
async def main(runtime):
    await runtime.endpoint("a.b.c").serve_endpoint(
        print,
        metrics_labels=[("a", "b")],
    )

rt.DistributedRuntime(None, "etcd", "tcp")
rt.DistributedRuntime(discovery="memory:")
"""
    assert [" ".join(line.split()) for line in said_of(tmp_path, code)] == [
        "warn 5 dynamo.runtime.dynamo_worker() with static= is an older form. Leave it out",
        "fail 9 serve_endpoint() with metrics_labels= is not here. Leave it out: metrics have their labels by "
        "themselves",
        "warn 12 dynamo.runtime.DistributedRuntime() with arguments by place is an older form. Write async with "
        "DistributedRuntime(discovery=..., request_plane=...) before version 1.0, with URLs",
    ]


#: What takes the arguments of methods that stand in the table.
METHODS_OF = {".serve_endpoint": Endpoint.serve_endpoint, ".client": Endpoint.client, ".schedule": None}


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_is_in_the_table_if_it_is_not_taken_or_warns(name: str, argument: str) -> None:
    module, _, last = name.rpartition(".")
    called = getattr(importlib.import_module(module), last) if module else METHODS_OF[name]
    parameters = {} if called is None else inspect.signature(called).parameters
    is_refused = last == "register_model"  # takes them, to say that they have no meaning
    assert (argument in parameters or argument == "*") is (ARGUMENTS[name, argument].works or is_refused)


def test_older_methods_of_metrics_are_told() -> None:
    older = {name for name, member in vars(RuntimeMetrics).items() if hasattr(member, "__deprecated__")}
    assert older
    assert older <= METHODS.keys()


def test_names_that_stay_are_not_in_the_table() -> None:
    """A name that works, and will, is nothing to change."""
    for name, moved in DYNAMO.items():
        module, _, last = name.rpartition(".")
        assert moved.works or last not in (public_names(module) or ()), name
        assert moved.works or not is_module(name), name


def test_what_the_tables_send_people_to_is_here() -> None:
    for moved in (*DYNAMO.values(), *BENTOML.values()):
        module, _, last = moved.new.rpartition(".")
        if moved.new and not is_module(moved.new):
            assert last in (public_names(module) or ()), moved.new


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_command_tells_it_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("from dynamo.llm import KvPushRouter\n")
    result = doctor("--imports", str(tmp_path))
    assert result.exit_code == 1
    assert result.stdout.startswith(f"warn  {tmp_path}/old.py:1  dynamo.llm.KvPushRouter is an older name")
    report = json.loads(doctor("--json", "--imports", str(tmp_path)).stdout)
    assert [finding["level"] for finding in report["findings"]] == ["warn"]


def test_the_command_looks_at_code_only(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("from dynamo.llm import KvRouter\n")
    assert doctor("--imports", str(tmp_path)).exit_code == 0
    assert doctor("--imports", str(tmp_path), "--only", "planes").exit_code == 2
    assert doctor("--imports", str(tmp_path / "none")).exit_code == 2


@pytest.mark.parametrize("name", ["pipe.py", "endless.py"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe.py":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    [line] = lines(look_at_code([tmp_path]))
    assert line == f"fail  {path}  it could not be read: it is no regular file"


def test_a_notebook_is_not_taken_for_python_in_which_nothing_has_to_change(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours.ipynb", tmp_path / "other.ipynb"
    ours.write_text(json.dumps({"cells": [{"source": ["from dynamo.llm import KvPushRouter"]}]}))
    other.write_text(json.dumps({"cells": [{"source": ["import numpy"]}]}))
    [line] = lines(look_at_code([tmp_path]))
    assert line.startswith(f"fail  {ours}  it could not be read: it is a notebook; save it as a script")


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # longer than a path may be
        os.mkdir("d" * 250, dir_fd=at)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    [line] = lines(look_at_code([tmp_path]))
    assert line.endswith("it could not be read: File name too long")


def test_what_every_module_has_is_nothing_to_change(tmp_path: Path) -> None:
    code = "import dynamo.llm\n\nprint(dynamo.__path__, dynamo.llm.__file__, dynamo.llm.__all__)\n"
    assert said_of(tmp_path, code) == ["ok    imports  1 file read, nothing has to change"]
