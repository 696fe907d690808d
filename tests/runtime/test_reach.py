"""Settings that fit one machine, in a process of several: it is told at its start, and not by who waits elsewhere."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.free_port import free_port
from tests.nats_server import nats_server

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo.runtime import CannotConnect, DistributedRuntime
from dynamo.runtime._reach import (
    nats_that_is_set,
    warn_if_events_stay_here,
    warn_if_nats_is_away,
    warn_if_requests_stay_here,
)

DEADLINE_S = 60.0

FAR = "etcd://us:secret@h1:2379,127.0.0.1:2379/root"
NEAR = ["etcd://127.0.0.1:2379", "etcd://localhost,[::1]:2379/root", "file:///some/dir", "memory:"]


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while text not in caplog.text:  # noqa: ASYNC110 - the log tells nobody of a line
            await asyncio.sleep(0.01)


async def nothing(request: object) -> AsyncIterator[object]:
    yield request


# Who listens on this host only.


@pytest.mark.parametrize("plane", ["tcp:", "tcp://127.0.0.1:7000", "tcp://localhost", "tcp://[::1]"])
def test_who_is_found_elsewhere_and_called_here_only_is_told(plane: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_requests_stay_here(FAR, plane)
    assert "h1" in caplog.text
    assert "DYN_REQUEST_PLANE=tcp://ADDRESS" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("plane", ["zmq:", "zmq://127.0.0.1:7000"])
def test_who_is_found_elsewhere_and_heard_here_only_is_told(plane: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_if_events_stay_here(FAR, plane)
    assert "DYN_EVENT_PLANE=zmq://ADDRESS" in caplog.text


@pytest.mark.parametrize(
    ("discovery", "requests", "events"),
    [
        *[pytest.param(near, "tcp:", "zmq:", id=near) for near in NEAR],
        pytest.param(FAR, "tcp://192.0.2.1", "zmq://192.0.2.1:7000", id="reached by others"),
        pytest.param(FAR, "inproc:", "nats://h3", id="of other kinds"),
        pytest.param(MemoryDiscovery(), object(), object(), id="given"),
    ],
)
def test_nobody_is_told_of_settings_that_are_right(
    discovery: object, requests: object, events: object, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_requests_stay_here(discovery, requests)
    warn_if_events_stay_here(discovery, events)
    assert not caplog.records


# A NATS that is not there.


async def test_a_nats_that_is_not_there_is_told_of_at_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    monkeypatch.setenv("NATS_SERVER", url)
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:"):
        await until_logged(caplog, "cannot be reached now")
    assert f"NATS_SERVER: NATS at {url}" in caplog.text
    assert len(caplog.records) == 1  # though it is for events and for work queues


async def test_a_nats_that_is_there_is_not_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with nats_server(tmp_path) as server:
        url = server.url.replace("127.0.0.1", "localhost")  # which may have another address before the right one
        with socket.socket() as gone:
            gone.bind(("127.0.0.1", 0))
            port = gone.getsockname()[1]
            await warn_if_nats_is_away(
                nats_that_is_set({"DYN_EVENT_PLANE": f"nats://us:secret@127.0.0.1:{port},{url}"})
            )
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_runtime_ends_while_it_looks_for_nats() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        async with asyncio.timeout(DEADLINE_S):
            async with DistributedRuntime(
                discovery="memory:", request_plane="inproc:", event_plane=f"nats://127.0.0.1:{port}"
            ):
                pass


async def test_an_event_that_could_not_be_published_names_the_instance_to_whoever_called() -> None:
    discovery = MemoryDiscovery()
    plane = f"nats://127.0.0.1:{free_port()}"
    async with DistributedRuntime(discovery=discovery, request_plane="tcp:", event_plane=plane) as runtime:

        async def greet(request: object) -> AsyncIterator[object]:
            await runtime.events.publish("greeted", request)
            yield request

        endpoint = runtime.endpoint("ns.comp.ep")
        await endpoint.serve(greet)
        client = await endpoint.client()
        await client.wait_for_instances(timeout_s=DEADLINE_S)
        with pytest.raises(CannotConnect, match=f"event_plane: .*in instance {runtime.lease.id:x}"):
            await (await client.generate("World")).batch()


# Two kinds of event planes.


async def test_who_uses_another_event_plane_than_the_others_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = MemoryDiscovery()
    async with (
        nats_server(tmp_path) as server,
        DistributedRuntime(discovery=discovery, request_plane="inproc:", event_plane="zmq:") as first,
        DistributedRuntime(discovery=discovery, request_plane="inproc:", event_plane="zmq:") as second,
        DistributedRuntime(discovery=discovery, request_plane="inproc:", event_plane=server.url) as third,
    ):
        await first.events.publish("kv", 1)
        await second.events.subscribe("kv")
        await asyncio.sleep(0)
        assert not caplog.records
        await third.events.publish("kv", 1)
        await until_logged(caplog, "through nats, and others do through zmq")
        await third.events.publish("kv", 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "DYN_EVENT_PLANE" in caplog.text
    assert not await discovery.get_prefix("")
