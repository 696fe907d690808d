"""The event plane when the network, a server, or somebody else misbehaves."""

from __future__ import annotations

import asyncio
import logging
import signal
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from nats.aio.client import Client
from tests._core.event_planes import Opened, opened, raw_publisher, running
from tests.conformance.event_plane import DEADLINE_S, meet, read, read_payloads, read_until
from tests.free_port import free_port
from tests.nats_server import nats_server

from dynamo._core.address import event_channel_key, nats_subject
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.event_plane import Event, EventPlane, Gap, Subscription, open_event_plane
from dynamo._core.event_plane._envelope import EVENT, encode
from dynamo._core.event_plane.nats import NatsEventPlane
from dynamo._core.event_plane.zmq import ZmqEventPlane

__all__ = ["opened"]

# What is unreadable in an envelope, and why.
HOSTILE_ENVELOPES = [
    b"",
    b"\x01",
    b"\x03\0\0\0\x01\x80",
    b"\x01\0\0\0\x05\x80",
    b"\x01\xff\xff\xff\xff\x80",
    b"\x01\0\0\0\x01\xc1",
    b"\x01\0\0\0\x01\x80",
    b"\x01\0\0\0\x40" + b"\x91" * 64,
    encode(EVENT, 1, 1, "kv")[:-1],
    encode(EVENT, -1, 1, "kv"),
    encode(EVENT, 1, -1, "kv"),
    encode(9, 1, 1, "kv"),
]


# Hostile peers


async def test_hostile_frames_are_counted_and_the_others_are_heard(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = MemoryDiscovery()
    here, there = opened(ZmqEventPlane(discovery)), opened(ZmqEventPlane(discovery))
    subscription = there.subscribe("kv")
    eight = bytes(8)
    good = encode(EVENT, 7, 1, "kv", b"good")
    hostile = [[b"kv"], [b"kv", eight, eight], [b"kv"] + [b""] * 1000, [b"kv", b"", eight, good]]
    hostile += [[b"kv", eight, eight, envelope] for envelope in HOSTILE_ENVELOPES]
    with caplog.at_level(logging.WARNING):
        async with raw_publisher(discovery, 7) as socket:
            async with asyncio.timeout(DEADLINE_S):
                while there.stats.num_unreadable == 0:
                    await socket.send_multipart(hostile[0])
                    await asyncio.sleep(0.01)
            for frames in hostile:
                await socket.send_multipart(frames)
            await socket.send_multipart([b"kv", eight, eight, good])
            assert await read(subscription, 1) == [Event(7, 1, b"good")]
            assert there.stats.num_unreadable >= 1 + len(hostile)
            await meet(here, subscription)
    assert "unreadable" in caplog.text


async def test_a_message_over_the_limit_closes_that_connection_and_no_other(opened: Opened) -> None:
    discovery = MemoryDiscovery()
    here, there = opened(ZmqEventPlane(discovery)), opened(ZmqEventPlane(discovery))
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    async with raw_publisher(discovery, 7) as socket:
        for _ in range(3):
            await socket.send_multipart([b"kv", bytes(8), bytes(8), bytes(10 << 20)])
            await here.publish("kv", b"fine")
            assert await read_payloads(subscription, 1) == [b"fine"]


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"{}",
        b'{"transport":{}}',
        b'{"transport":{"zmq":"ipc:///tmp/x"}}',
        b'{"transport":{"zmq":"tcp://127.0.0.1:99999"}}',
        b'{"transport":{"zmq":"tcp://127.0.0.1:1;tcp://127.0.0.1:2"}}',
        b"[" * 100_000,
    ],
)
async def test_a_hostile_record_in_discovery_is_counted_and_the_others_are_heard(opened: Opened, record: bytes) -> None:
    discovery = MemoryDiscovery()
    await discovery.put(event_channel_key("kv", 7), record)
    here, there = opened(ZmqEventPlane(discovery)), opened(ZmqEventPlane(discovery))
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    assert there.stats.num_unreadable == 1


async def test_hostile_messages_on_nats_are_counted_and_the_others_are_heard(opened: Opened, tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        here, there = [opened(await NatsEventPlane.connect(server.url, {})) for _ in range(2)]
        subscription = there.subscribe("kv")
        await meet(here, subscription)
        client = Client()
        await client.connect(server.url)
        for envelope in HOSTILE_ENVELOPES:
            await client.publish(nats_subject("kv"), envelope)
        await client.publish(nats_subject("kv"), encode(EVENT, 7, 1, "kv", b"good"))
        assert await read(subscription, 1) == [Event(7, 1, b"good")]
        assert there.stats.num_unreadable == len(HOSTILE_ENVELOPES)
        await client.close()


# Servers and processes that stop


async def test_nats_killed_and_started_again_is_a_gap(opened: Opened, tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        here, there = [opened(await NatsEventPlane.connect(server.url, {})) for _ in range(2)]
        subscription = there.subscribe("kv")
        last = await meet(here, subscription)
        await server.kill()
        async with asyncio.timeout(DEADLINE_S):
            while here.stats.num_dropped < 10:
                await here.publish("kv", b"lost")
                await asyncio.sleep(0.01)
        await server.start()
        items: list[Event | Gap] = []
        async with asyncio.timeout(DEADLINE_S):
            while not any(isinstance(item, Event) for item in items):
                await here.publish("kv", b"back")
                try:
                    async with asyncio.timeout(0.05):
                        items += await subscription.batch()
                except TimeoutError:
                    continue
        gaps = [item.missed or 0 for item in items if isinstance(item, Gap)]
        first = next(item.sequence for item in items if isinstance(item, Event))
        assert isinstance(items[0], Gap)
        assert sum(gaps) >= 10
        assert first == last + sum(gaps) + 1


async def test_who_is_thrown_out_by_nats_comes_back(tmp_path: Path, opened: Opened) -> None:
    async with nats_server(tmp_path) as server, Proxy(server.port) as proxy:
        here = opened(await NatsEventPlane.connect(server.url, {}))
        there = opened(await NatsEventPlane.connect(f"nats://127.0.0.1:{proxy.port}", {}))
        subscription = there.subscribe("kv")
        await meet(here, subscription)
        num_connections = proxy.num_connections
        proxy.say(b"-ERR 'Slow Consumer'\r\n")
        async with asyncio.timeout(DEADLINE_S):
            while proxy.num_connections == num_connections:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        await meet(here, subscription)
        await meet(there, subscription)
        await subscription.aclose()


async def test_frozen_nats_holds_up_nobody_and_costs_a_limited_memory(opened: Opened, tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        plane = opened(await NatsEventPlane.connect(server.url, {}))
        subscription = plane.subscribe("kv")
        await meet(plane, subscription)
        server.stop()
        async with asyncio.timeout(DEADLINE_S):
            while plane.stats.num_dropped < 10:
                await plane.publish("kv", bytes(500_000))
                await asyncio.sleep(0)
        server.go_on()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                await plane.publish("kv", b"on")
                items = await subscription.batch()
                if any(isinstance(item, Event) and item.payload == b"on" for item in items):
                    break


@pytest.mark.parametrize("kind", ["zmq", "nats"])
async def test_a_stopped_listener_holds_up_nobody_and_sees_a_gap_when_it_goes_on(
    opened: Opened, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "discovery").mkdir(mode=0o700)
    (tmp_path / "nats.conf").write_text('write_deadline: "2s"')  # so long NATS itself bears with a listener, not 10 s
    async with nats_server(tmp_path / "nats", "-c", str(tmp_path / "nats.conf")) as server:
        url = server.url if kind == "nats" else "zmq:"
        discovery = FileDiscovery(tmp_path / "discovery")
        plane = opened(await open_event_plane(url, discovery))
        healthy = opened(await open_event_plane(url, discovery)).subscribe("kv")
        async with running("event_listener.py", url, str(tmp_path / "discovery")) as process:
            await meet(plane, healthy)
            while not (await say_until_heard(plane, process)).startswith("e"):
                pass
            process.send_signal(signal.SIGSTOP)
            await plane.publish("kv", b"stopped")
            await read_until(healthy, b"stopped")
            async with asyncio.timeout(DEADLINE_S):
                while state_of(process) != "T":  # noqa: ASYNC110 - the kernel tells nobody
                    await asyncio.sleep(0.01)
            reading = asyncio.create_task(heard_until(healthy, b"last"))
            for _ in range(300):
                await plane.publish("kv", bytes(300_000))
                await asyncio.sleep(0.005)
            while not reading.done():
                await plane.publish("kv", b"last")
                await asyncio.wait([reading], timeout=0.05)
            process.send_signal(signal.SIGCONT)
            lines: list[str] = []
            while not (lines and lines[-1] == "e 4"):
                lines.append(await say_until_heard(plane, process, b"last"))
            assert any(line.startswith("g") for line in lines) or lines.count("e 300000") == 300
        await discovery.close()


@pytest.mark.parametrize("kind", ["zmq", "nats"])
async def test_a_publisher_that_is_killed_and_started_again_counts_anew_under_another_id(
    opened: Opened, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "discovery").mkdir(mode=0o700)
    async with nats_server(tmp_path / "nats") as server, AsyncExitStack() as stack:
        discovery = FileDiscovery(tmp_path / "discovery")
        stack.push_async_callback(discovery.close)
        # The second run is at the very address of the first one.
        url = server.url if kind == "nats" else f"zmq://127.0.0.1:{free_port()}"
        subscription = opened(await open_event_plane(server.url if kind == "nats" else "zmq:", discovery)).subscribe(
            "kv"
        )
        runs: list[list[Event | Gap]] = []
        for run in (b"first", b"second"):
            async with running("event_publisher.py", url, str(tmp_path / "discovery"), run.decode()):
                runs.append(await read_until(subscription, run) + await read(subscription, 20))
    first, second = (
        {item.publisher_id for item in run if is_from(item, name)}
        for run, name in zip(runs, (b"first", b"second"), strict=True)
    )
    assert len(first) == len(second) == 1
    assert first != second
    heard = [item for run in runs for item in run]
    assert sum(before.publisher_id != after.publisher_id for before, after in pairwise(heard)) == 1, "nobody comes back"
    for (id,) in (first, second):
        sequences = [item.sequence for item in heard if isinstance(item, Event) and item.publisher_id == id]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    assert not any(isinstance(item, Gap) for item in heard)


class Proxy:
    """Stands between a client and NATS on loopback, and can speak in NATS's place."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._clients: list[asyncio.StreamWriter] = []
        self.num_connections = 0

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for writer in self._clients:
            writer.close()

    def say(self, line: bytes) -> None:
        """Send something to the newest client."""
        self._clients[-1].write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._clients.append(writer)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        await asyncio.gather(_copy(reader, server_writer), _copy(server_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
    except ConnectionError:
        return
    finally:
        writer.close()


async def say_until_heard(plane: EventPlane, process: Process, payload: bytes = b"hello") -> str:
    """Publish until the process prints a line, and return it."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        reading = asyncio.create_task(process.stdout.readline())
        while not reading.done():
            await plane.publish("kv", payload)
            await asyncio.wait([reading], timeout=0.05)
        return reading.result().decode().strip()


async def heard_until(subscription: Subscription, payload: bytes) -> None:
    """Read until this is heard, however much is lost before it."""
    async for item in subscription:
        if isinstance(item, Event) and item.payload == payload:
            return


def is_from(item: Event | Gap, run: bytes) -> bool:
    return isinstance(item, Event) and item.payload == run


def state_of(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
