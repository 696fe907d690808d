"""`dynamo doctor` as a command, and what it says of the settings and of the planes, well or wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.cli.doctoring import doctor, lines_of, only, put
from tests.cli.other_servers import silent_port
from tests.nats_server import nats_server

TOKEN = "a token of the cluster that is long enough"


# The command.


async def test_a_machine_on_which_nothing_runs_is_well(tmp_path: Path) -> None:
    result = await doctor(tmp_path, *only("planes", "workers", "settings"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["ok"] * 8
    assert f"discovery          file://{tmp_path} is there, and nobody has used it yet" in result.stdout
    assert os.listdir(tmp_path) == []


async def test_a_directory_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    result = await doctor(tmp_path / "mistyped", *only("planes", "workers"))
    assert result.exit_code == 1
    [line] = lines_of(result, "warn")
    assert f"file://{tmp_path}/mistyped is not there, so nobody has registered anything in it" in line
    assert os.listdir(tmp_path) == []


async def test_the_directory_of_the_user_may_be_there_or_not(tmp_path: Path) -> None:
    of_the_user = {"DYN_DISCOVERY": "", "XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path)}
    result = await doctor(tmp_path, *only("planes", "workers"), **of_the_user)
    assert result.exit_code == 0
    assert "is not there yet: whoever starts first makes it" in result.stdout
    assert os.listdir(tmp_path) == []
    (tmp_path / f"dynamo-{os.geteuid()}").mkdir(mode=0o700)
    result = await doctor(tmp_path, *only("planes"), **of_the_user)
    assert (result.exit_code, "is there, and nobody has used it yet" in result.stdout) == (0, True)


async def test_a_directory_that_others_may_write_to_fails(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    [line] = lines_of(await doctor(tmp_path, *only("planes")), "fail")
    assert f"others may write to {tmp_path} and forge what is in it" in line


async def test_a_directory_that_is_in_use_is_asked(tmp_path: Path) -> None:
    await put(tmp_path, "key", b"value")
    result = await doctor(tmp_path, *only("planes"))
    assert f"file://{tmp_path} answered in" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--wrong"], "No such option: --wrong"),
        (["--only", "everything"], "'everything' is not one of"),
        (["--url", "127.0.0.1:8000"], "'127.0.0.1:8000' is not a URL like"),
        (["--url", "http://host:99999"], "is not a URL"),
        (["--url", "file:///etc/passwd"], "is not a URL"),
        (["--url", "http://..:80"], "is not a URL"),
        (["--url", f"http://{'a' * 80}:80"], "is not a URL"),
        (["--url", "http://h/\u00fc"], "is not a URL"),
        (["--url", "http://h:1?x"], "leave out a name and a password"),
        (["--url", "http://h:1/#x"], "leave out a name and a password"),
        (["--url", "http://user:secret@h"], "'http://***@h' has more"),
    ],
)
async def test_a_command_line_that_is_wrong_has_a_status_of_its_own(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = await doctor(tmp_path, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "secret" not in result.stderr


async def test_as_json_there_is_the_same_for_programs(tmp_path: Path) -> None:
    result = await doctor(tmp_path, *only("planes"), "--json", DYN_DISCOVERY="etcd://127.0.0.1:1")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["well"] is False
    assert [(one["check"], one["level"]) for one in report["findings"]] == [
        ("discovery", "fail"),
        ("events", "ok"),
        ("work queue", "ok"),
    ]
    assert report["findings"][0]["remedy"] == "start it, or say where it is with DYN_DISCOVERY"


@pytest.mark.timeout(180)
async def test_the_installation_is_looked_at(tmp_path: Path) -> None:
    result = await doctor(tmp_path, *only("install"))
    checks = [line.partition("  ")[2].strip().partition("  ")[0] for line in result.stdout.splitlines()]
    assert checks == ["python", "extra etcd", "extra nats", "extra route", "extra transformers"]
    assert lines_of(result, "fail") == []


# Discovery and the other planes.


@pytest.mark.parametrize(
    ("variables", "check", "words"),
    [
        (
            {"DYN_DISCOVERY": "etcd://127.0.0.1:1"},
            "discovery",
            "no member of the etcd that DYN_DISCOVERY names answers",
        ),
        ({"DYN_DISCOVERY": "zookeeper:"}, "discovery", "DYN_DISCOVERY is 'zookeeper:', which names no known discovery"),
        ({"DYN_EVENT_PLANE": "nats://127.0.0.1:1"}, "events", "cannot connect to NATS at nats://127.0.0.1:1"),
        ({"DYN_EVENT_PLANE": "kafka:"}, "events", "names no known event plane"),
        ({"DYN_EVENT_PLANE": "zmq://192.0.2.1:5000"}, "events", "DYN_EVENT_PLANE"),
        ({"DYN_WORK_QUEUE": "nats://127.0.0.1:1"}, "work queue", "DYN_WORK_QUEUE: cannot connect to NATS"),
        ({"DYN_WORK_QUEUE": "x"}, "work queue", "names no known work queue"),
    ],
)
async def test_a_plane_that_is_not_there_fails(
    tmp_path: Path, variables: dict[str, str], check: str, words: str
) -> None:
    result = await doctor(tmp_path, *only("planes", "workers"), **variables)
    assert result.exit_code == 1
    [line] = lines_of(result, "fail")
    assert line.startswith(check)
    assert words in line


async def test_nats_is_there_and_has_jetstream_or_not(tmp_path: Path) -> None:
    for jetstream, level in ((True, "ok"), (False, "warn")):
        (tmp_path / "d").mkdir(mode=0o700, exist_ok=True)
        async with nats_server(tmp_path / "nats", jetstream=jetstream) as server:
            result = await doctor(tmp_path / "d", *only("planes"), NATS_SERVER=server.url)
        assert f"events      {server.url} is connected" in result.stdout
        assert any(line.startswith("work queue") for line in lines_of(result, level))


async def test_discovery_within_one_process_shows_nothing(tmp_path: Path) -> None:
    result = await doctor(tmp_path, *only("workers"), DYN_DISCOVERY="memory:")
    assert result.exit_code == 1
    [line] = lines_of(result, "warn")
    assert "memory: is within one process" in line


async def test_processes_with_another_event_plane_do_not_hear_this_one(tmp_path: Path) -> None:
    await put(tmp_path, "v1/event_planes/nats/1a", b"")
    result = await doctor(tmp_path, *only("planes"))
    [line] = lines_of(result, "fail")
    assert "here events travel through zmq, and processes that run use nats" in line


async def test_entries_of_others_in_discovery_are_named(tmp_path: Path) -> None:
    await put(tmp_path, "v1/instances/what", b"{}")
    await put(tmp_path, "v1/mdc/ns/c/e/1", b"\xff\x1b[31m")
    result = await doctor(tmp_path, *only("planes"))
    [line] = lines_of(result, "warn")
    assert "2 entries are not what they should be, and ignored: v1/instances/what, v1/mdc/ns/c/e/1" in line


# Settings.


@pytest.mark.parametrize(
    ("variables", "level", "words"),
    [
        ({"DYN_CLUSTER_TOKEN": "short"}, "fail", "a token of 5 bytes"),
        ({"DYN_CLUSTER_TOKEN_FILE": "/no/such/file"}, "fail", "/no/such/file cannot be read"),
        ({"DYN_TLS_CERT": "/no/cert"}, "fail", "DYN_TLS_CERT is set and DYN_TLS_KEY is not"),
        ({"DYN_TLS_CERT": "/no/cert", "DYN_TLS_KEY": "/no/key"}, "fail", "/no/key cannot be used"),
        ({"DYN_REQUEST_PLANE": "tcp://192.0.2.1"}, "fail", "and there are no credentials"),
        ({"DYN_REQUEST_PLANE": "tcp://192.0.2.1?insecure=1"}, "warn", "other machines can call the workers"),
        ({"DYN_HTTP_HOST": "0.0.0.0"}, "fail", "the frontend would listen on 0.0.0.0"),
        ({"DYN_HTTP_HOST": "0.0.0.0", "DYN_INSECURE": "1"}, "warn", "the frontend would listen on 0.0.0.0"),
        ({"DYN_HTTP_PORT": "many"}, "fail", "DYN_HTTP_PORT"),
        ({"DYN_SYSTEM_PORT": "x"}, "fail", "DYN_SYSTEM_PORT"),
        ({"DYN_SYSTEM_PORT": "0", "DYN_SYSTEM_HOST": "0.0.0.0"}, "fail", "the system server would listen on 0.0.0.0"),
        ({"DYN_ROUTER_TEMPERATURE": "1"}, "fail", "--router-temperature is for the router mode kv"),
    ],
)
async def test_a_setting_that_is_wrong_is_found_before_anything_starts(
    tmp_path: Path, variables: dict[str, str], level: str, words: str
) -> None:
    result = await doctor(tmp_path, *only("settings"), **variables)
    assert result.exit_code == 1
    [line, *_] = lines_of(result, level)
    assert words in line


async def test_a_port_of_the_system_server_is_free_or_taken(tmp_path: Path) -> None:
    with silent_port() as port:
        taken = await doctor(tmp_path, *only("settings"), DYN_SYSTEM_PORT=str(port))
    free = await doctor(tmp_path, *only("settings"), DYN_SYSTEM_PORT=str(port))
    [line] = lines_of(taken, "warn")
    assert f"somebody listens on 127.0.0.1:{port} already" in line
    assert f"it would listen on 127.0.0.1:{port}" in free.stdout
    assert free.exit_code == 0


async def test_with_a_token_other_machines_may_call(tmp_path: Path) -> None:
    result = await doctor(tmp_path, *only("settings"), DYN_REQUEST_PLANE="tcp://192.0.2.1", DYN_CLUSTER_TOKEN=TOKEN)
    assert result.exit_code == 0
    assert "a token from DYN_CLUSTER_TOKEN" in result.stdout
    assert TOKEN not in result.output
