"""`dynamo env`: what it says, and what it keeps to itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dynamo.cli._app import app
from dynamo.cli._env import gpus, packages, shown, variables

run = CliRunner()


#: None of the variables that are ours.
NOTHING_SET = dict.fromkeys(name for name in os.environ if name.startswith(("DYN_", "DYNAMO_")))


def test_the_text_has_a_block_for_each_subject() -> None:
    result = run.invoke(app, ["env"], env=NOTHING_SET | {"HF_HUB_OFFLINE": "1"})
    assert result.exit_code == 0
    titles = [block.splitlines()[0] for block in result.output.split("\n\n")]
    assert titles == ["System", "Python", "Packages", "GPUs", "Planes in force", "Variables"]
    assert f"  dynamo-serve: {version('dynamo-serve')}\n" in result.output
    assert f"  msgspec: {version('msgspec')}\n" in result.output


def test_the_json_says_the_same_as_one_object(tmp_path: Path) -> None:
    result = run.invoke(app, ["env", "--json"], env={"DYN_DISCOVERY": f"file://{tmp_path}"})
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["python"]["Executable"] == sys.executable
    assert report["planes"]["Discovery"] == f"file://{tmp_path}"
    assert report["variables"]["DYN_DISCOVERY"] == f"file://{tmp_path}"
    assert report["system"]["Kernel"]


def test_variables_that_are_not_stable_or_that_nothing_reads_are_remarked_upon() -> None:
    environ = NOTHING_SET | {"DYN_HTTP_PORT": "1", "DYN_ROUTER_TEMPERATURE": "0.5", "DYN_HTTP_PROT": "1"}
    result = run.invoke(app, ["env"], env=environ)
    assert result.output.endswith(
        "\n\nOf these variables\n  DYN_HTTP_PROT: nothing reads it; did you mean DYN_HTTP_PORT?\n"
        "  DYN_ROUTER_TEMPERATURE: beta\n"
    )
    report = json.loads(run.invoke(app, ["env", "--json"], env=environ).stdout)
    assert report["remarks"]["DYN_ROUTER_TEMPERATURE"] == "beta"
    assert "DYN_HTTP_PORT" not in report["remarks"]


def test_a_setting_that_is_wrong_is_part_of_the_report() -> None:
    result = run.invoke(app, ["env"], env={"DYN_DISCOVERY": "", "DYN_DISCOVERY_BACKEND": "zookeeper"})
    assert result.exit_code == 0
    assert "Discovery: error: DYN_DISCOVERY_BACKEND is 'zookeeper'" in result.output


def test_every_plane_is_shown_as_it_would_be_used() -> None:
    none = dict.fromkeys(("DYN_REQUEST_PLANE", "DYN_EVENT_PLANE", "DYN_WORK_QUEUE", "NATS_SERVER"), "")
    planes = json.loads(run.invoke(app, ["env", "--json"], env=none).stdout)["planes"]
    assert {name: planes[name] for name in ("Request plane", "Event plane", "Work queue")} == {
        "Request plane": "tcp:", "Event plane": "zmq:", "Work queue": "embedded:"
    }  # fmt: skip


def test_no_secret_of_the_environment_is_printed() -> None:
    secrets = {
        "DYN_CLUSTER_TOKEN": "hunter2",
        "ETCD_AUTH_USERNAME": "hunter2",
        "ETCD_AUTH_PASSWORD": "hunter2",
        "NATS_AUTH_TOKEN": "hunter2",
        "DYN_TLS_KEY": "hunter2",
        "NATS_SERVER": "nats://me:hunter2@host:4222",
        "DYN_DISCOVERY": "etcd://me:hunter2@host:2379",
        "DYN_REQUEST_PLANE": "tcp://me:hunter2@host:1",
        "DYN_DEPLOYMENT_CONFIG": '{"password": "hunter2"}',
    }
    for arguments in (["env"], ["env", "--json"]):
        result = run.invoke(app, arguments, env=secrets)
        assert result.exit_code == 0
        assert "hunter2" not in result.output
        assert "etcd://***@host:2379" in result.output
        assert result.output.count("nats://***@host:4222") == 3, "the variable, events and jobs"
        for name in ("ETCD_AUTH_USERNAME", "ETCD_AUTH_PASSWORD", "NATS_AUTH_TOKEN"):
            assert re.search(rf'{name}"?: "?\*\*\*', result.output)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DYN_LOG", "debug", "debug"),
        ("DYN_HF_TOKEN", "abc", "***"),
        ("dyn_api_key", "abc", "***"),
        ("DYN_PASSWD", "abc", "***"),
        ("ETCD_ENDPOINTS", "http://a:b@one:1,http://c:d@two:2", "http://***@two:2"),
        ("DYN_URL", "nats://u:p/w,d@x@host:1/path", "nats://***@host:1/path"),
        ("DYN_URL", "https://host/a?user=me&access_token=abc&x=1", "https://host/a?user=me&access_token=***&x=1"),
        ("DYN_CONFIG", ' {"a": 1}', "(9 characters, not shown)"),
        ("DYN_CONFIG", "a: 1\nb: 2", "(9 characters, not shown)"),
        ("DYN_TITLE", "\x1b]0;owned\x07", "(10 characters, not shown)"),
    ],
)
def test_what_could_be_secret_is_masked(name: str, value: str, expected: str) -> None:
    assert shown(name, value) == expected


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1))
def test_no_password_of_a_url_is_shown_whatever_it_is(password: str) -> None:
    assert f"<{password}>" not in shown("DYN_URL", f"nats://user:<{password}>@host:1")


def test_only_variables_that_matter_are_shown() -> None:
    environ = {"HOME": "/home/me", "DYN_LOG": "info", "DYNAMO_PORT": "1", "DYNASTY": "x", "HF_HUB_OFFLINE": "1"}
    assert variables(environ) == {"DYNAMO_PORT": "1", "DYN_LOG": "info", "HF_HUB_OFFLINE": "1"}


def test_packages_are_those_of_the_requirements_but_for_tools() -> None:
    found = packages(
        [
            "msgspec>=0.19",
            "no-such-package>=1; sys_platform == 'linux'",
            'other.missing; extra == "gpu"',
            'pytest>=8; extra == "test"',
        ]
    )
    assert found == {
        "dynamo-serve": version("dynamo-serve"),
        "msgspec": version("msgspec"),
        "no-such-package": None,
        "other.missing": None,
    }


def test_a_tool_that_is_not_there_is_not_available() -> None:
    assert gpus(("no-such-tool",)) == {"no-such-tool": None}


def test_each_gpu_is_a_line() -> None:
    script = "print('0, Some GPU, 81559 MiB, 550.54'); print('1, Some GPU, 81559 MiB, 550.54')"
    assert gpus((sys.executable, "-c", script)) == {
        "0": "Some GPU, 81559 MiB, 550.54",
        "1": "Some GPU, 81559 MiB, 550.54",
    }


def test_a_tool_that_fails_says_why() -> None:
    script = "import sys; sys.exit('cannot talk to the driver')"
    assert gpus((sys.executable, "-c", script)) == {sys.executable: "failed with status 1: cannot talk to the driver"}


def test_it_loads_no_model_library_and_no_server() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from dynamo.cli._app import app; "
        "assert CliRunner().invoke(app, ['env']).exit_code == 0; "
        "print(sorted({'torch', 'transformers', 'uvicorn', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n"
