"""An address that is wrong, or where nobody answers: the error names what it came from, an argument or a variable."""

from __future__ import annotations

import socket

import pytest
from tests.free_port import free_port

from dynamo._core.errors import CannotConnect, ConfigError, DynamoError
from dynamo.runtime import DistributedRuntime

VARIABLES = {
    "discovery": "DYN_DISCOVERY",
    "request_plane": "DYN_REQUEST_PLANE",
    "event_plane": "DYN_EVENT_PLANE",
    "work_queue": "DYN_WORK_QUEUE",
}


async def refused(**planes: str) -> str:
    given = {"discovery": "memory:", "request_plane": "inproc:", "event_plane": None, "work_queue": None} | planes
    with pytest.raises(ConfigError) as raised:
        async with DistributedRuntime(
            discovery=given["discovery"],
            request_plane=given["request_plane"],
            event_plane=given["event_plane"],
            work_queue=given["work_queue"],
        ):
            pass
    return str(raised.value)


WRONG = [
    ("discovery", "etdc://host:2379", " is 'etdc://host:2379', which names no known discovery"),
    ("discovery", "memory:x", " is 'memory:x'; write memory: and nothing after it"),
    ("discovery", "file:/x", " is 'file:/x'; a directory of this host is meant"),
    ("discovery", "etcd://", " is not the URL of an etcd: "),
    ("discovery", "etcd://a:b:c", " is not the URL of an etcd: "),
    ("discovery", "file:///proc/none", " to file:// and another directory"),
    ("request_plane", "tpc:", "='tpc:': unknown scheme 'tpc'"),
    ("request_plane", "tcp://h:p", "='tcp://h:p': "),
    ("request_plane", "tcp:?x=1", "='tcp:?x=1': unknown option x=1"),
    ("request_plane", "tcp://no-ip", ": 'no-ip' is not an IP address to listen at"),
    ("request_plane", "tcp://0.0.0.0", ": 0.0.0.0 says not how others reach this host"),
    ("request_plane", "tcp://192.0.2.1", ": other hosts could connect to 192.0.2.1"),
    ("event_plane", "zqm:", "='zqm:' names no known event plane"),
    ("work_queue", "nast://x", "='nast://x' names no known work queue"),
]


@pytest.mark.parametrize(("plane", "url", "told"), WRONG)
async def test_an_argument_that_is_wrong_is_what_the_error_names(plane: str, url: str, told: str) -> None:
    message = await refused(**{plane: url})
    assert f"{plane}{told}" in message
    assert VARIABLES[plane] not in message


@pytest.mark.parametrize(("plane", "url", "told"), WRONG)
async def test_a_variable_that_is_wrong_is_what_the_error_names(
    monkeypatch: pytest.MonkeyPatch, plane: str, url: str, told: str
) -> None:
    monkeypatch.setenv("DYN_DISCOVERY", "memory:")
    monkeypatch.setenv("DYN_REQUEST_PLANE", "inproc:")
    monkeypatch.setenv(VARIABLES[plane], url)
    with pytest.raises(ConfigError) as raised:
        async with DistributedRuntime():
            pass
    assert f"{VARIABLES[plane]}{told}" in str(raised.value)


async def test_where_nobody_listens_the_error_names_the_argument() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with pytest.raises(CannotConnect, match="no member of the etcd that discovery names answers"):
        async with DistributedRuntime(discovery=f"etcd://{nowhere}", request_plane="inproc:"):
            pass
    async with DistributedRuntime(
        discovery="memory:", request_plane="inproc:", event_plane=f"nats://{nowhere}", work_queue=f"nats://{nowhere}"
    ) as runtime:
        with pytest.raises(CannotConnect, match="event_plane: "):
            await runtime.events.publish("subject", 1)
        with pytest.raises(CannotConnect, match="work_queue: "):
            await runtime.work_queue("jobs")


@pytest.mark.parametrize(
    "setting",
    [{"ETCD_ENDPOINTS": "http://{}"}, {"DYN_DISCOVERY": "etcd://{}"}],
    ids=lambda setting: next(iter(setting)),
)
async def test_where_no_etcd_listens_the_error_names_the_variable_that_is_set(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str]
) -> None:
    monkeypatch.delenv("DYN_DISCOVERY", raising=False)
    ((variable, url),) = setting.items()
    monkeypatch.setenv(variable, url.format(f"127.0.0.1:{free_port()}"))
    with pytest.raises(DynamoError, match=f"no member of the etcd that {variable} names answers"):
        async with DistributedRuntime(request_plane="inproc:"):
            pass


async def test_a_port_that_is_taken_is_the_fault_of_the_argument() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plane = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        async with DistributedRuntime(discovery="memory:", request_plane=plane) as runtime:
            with pytest.raises(ConfigError, match="set request_plane=tcp://HOST:PORT"):
                await runtime.serve("a.b.c", lambda request: request)
