"""Releases of other versions: what is newer is put up with, what is incompatible is refused on both sides."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests._core.secured import DEADLINE_S, ask, connect, echo, next_messages, read_messages

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, IncompatibleVersion
from dynamo._core.request_plane.tcp import TcpPlane

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"
OURS = f"{wire.PROTOCOL_MAJOR}.{wire.PROTOCOL_MINOR}"


def golden(name: str) -> bytes:
    """What a release of the past has sent."""
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


@pytest.fixture
async def plane() -> AsyncIterator[TcpPlane]:
    plane = TcpPlane(local=False)
    yield plane
    await plane.close()


# The past: version 1.0, as its bytes have it.


async def test_a_caller_of_version_1_0_is_served(plane: TcpPlane) -> None:
    await plane.listen(echo)
    listener = await plane.listen(echo)  # the second target, which is the one in the golden request
    reader, writer = await connect(listener.address)
    # 1.0 sent its first request without waiting to be greeted.
    writer.write(golden("hello") + golden("request") + golden("heartbeat") + golden("credit"))
    hello, items, final = await next_messages(reader, wire.Decoder(), 3)
    assert isinstance(hello, wire.Hello)
    assert items == wire.Items(7, 0, [b"\x93\x01\x02\x03"])
    assert final == wire.Final(7, 1)
    writer.close()


async def test_a_caller_of_version_1_0_can_cancel(plane: TcpPlane) -> None:
    stopped = asyncio.Event()

    async def waits(request: bytes, context: Context) -> AsyncIterator[bytes]:
        await context.async_killed_or_stopped()
        stopped.set()
        yield b"stopped"

    await plane.listen(echo)
    listener = await plane.listen(waits)
    reader, writer = await connect(listener.address)
    writer.write(golden("hello") + golden("request") + golden("cancel"))
    async with asyncio.timeout(DEADLINE_S):
        await stopped.wait()
    messages = await next_messages(reader, wire.Decoder(), 3)
    assert messages[1] == wire.Items(7, 0, [b"stopped"])
    writer.close()


@pytest.mark.parametrize("ending", ["final", "error"])
async def test_a_worker_of_version_1_0_is_understood(plane: TcpPlane, ending: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(golden("hello"))
        decoder = wire.Decoder()
        said = await next_messages(reader, decoder, 2)
        assert isinstance(said[1], wire.Request)
        # The golden frames are of stream 7, and its first three items are not among them.
        writer.write(wire.encode([wire.Items(7, 0, [b"", b"", b""])]) + golden("items") + golden(ending))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/1"  # as 1.0 wrote it: without a version
        streams = [await plane.call(address, b"", Context()) for _ in range(7)]
        items: list[bytes] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(items) < 6:
                items += await streams[6].batch()
            assert items[3:] == [b"one", b"", b"three"]
            if ending == "final":
                assert await streams[6].batch() == []
            else:
                with pytest.raises(Exception, match="full"):
                    await streams[6].batch()
        await plane.close()


# The future: a newer minor version, spoken by a process of its own that shares no code of ours but msgspec.

NEWER = """
import asyncio, struct, sys, msgspec

MAJOR, MINOR = 1, 7

def frame(*messages):
    body = msgspec.msgpack.encode(list(messages))
    return struct.pack(">HHI", 0x4459, 0, len(body)) + body

HELLO = [1, MAJOR, MINOR, ["compression", "priorities"], b"", {"release": "2.3"}, [1, 2]]
NEWS = [77, {"anything": [None, 1.5]}, "more"]

async def frames(reader):
    while True:
        try:
            _, _, size = struct.unpack(">HHI", await reader.readexactly(8))
            for message in msgspec.msgpack.decode(await reader.readexactly(size)):
                yield message
        except asyncio.IncompleteReadError:
            return

async def serve(reader, writer):
    writer.write(frame(HELLO, NEWS))
    async for message in frames(reader):
        if message[0] == 2:
            _, stream, target, payload, *_ = message
            writer.write(frame(NEWS, [3, stream, 0, [payload], "a field more"], [78], [8, 1.5], [4, stream, 1, None]))
    writer.close()

async def call(address):
    host, port = address.removeprefix("tcp://").partition("/")[0].split(":")
    target = address.rpartition("/")[2].partition("?")[0]
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(frame(HELLO, NEWS))
    for stream in range(1, 101):
        request = [2, stream, target, b"from the future", "id", 1 << 20, None, {}, "priority", {"deep": [[]]}]
        writer.write(frame(NEWS, request, [79, stream], [7, stream, 100, "new"]))
    done = 0
    async for message in frames(reader):
        if message[0] == 3:
            assert message[3] == [b"from the future"], message
        done += message[0] == 4
        assert message[0] != 5, message
        if done == 100:
            break
    writer.close()
    print("answered", done)

async def main():
    if len(sys.argv) > 1:
        await call(sys.argv[1])
        return
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("tcp://127.0.0.1:%d/1?v=1&zone=b&local2=x" % server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def newer(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", NEWER, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


async def test_a_worker_of_a_newer_minor_version_is_called(plane: TcpPlane) -> None:
    worker = await newer()
    try:
        assert worker.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            address = (await worker.stdout.readline()).decode().strip()
        for _ in range(100):
            assert await ask(plane, address) == [b"hi"]
        await plane.close()
        assert plane.stats.num_messages_ignored == 1 + 2 * 100
        assert sum(plane.stats.frames_rejected.values()) == 0
    finally:
        worker.kill()
        await worker.communicate()


async def test_a_caller_of_a_newer_minor_version_is_served(plane: TcpPlane) -> None:
    listener = await plane.listen(echo)
    caller = await newer(listener.address)
    async with asyncio.timeout(DEADLINE_S):
        output, _ = await caller.communicate()
    assert output.decode().strip() == "answered 100"
    assert sum(plane.stats.frames_rejected.values()) == 0


# Another major version.


async def test_a_worker_of_another_major_version_is_refused_with_both_versions(plane: TcpPlane) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.encode([wire.Hello(major=2, minor=3)]))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        with pytest.raises(IncompatibleVersion, match=rf"protocol 2\.3 and this process speaks {OURS}") as caught:
            await ask(plane, f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/1")
        await plane.close()
    assert isinstance(caught.value, CannotConnect)
    assert caught.value.details["peer_version"] == "2.3"
    assert plane.stats.hello_failures["incompatible_version"] == 1


async def test_a_caller_of_another_major_version_learns_ours_and_nothing_else(
    plane: TcpPlane, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await plane.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(wire.encode([wire.Hello(major=2), wire.Request(1, "1", b"", "r", 1024)]))
    assert await read_messages(reader) == [wire.Hello()]
    assert plane.stats.hello_failures["incompatible_version"] == 1
    assert f"speaks protocol 2.1 and this process speaks {OURS}" in caplog.text
    writer.close()


async def test_an_address_of_another_major_version_is_not_even_tried(
    plane: TcpPlane, caplog: pytest.LogCaptureFixture
) -> None:
    connected = asyncio.Event()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    refusals = []
    async with server:
        for target in ("1", "2", "1"):
            with pytest.raises(IncompatibleVersion, match="speaks protocol 2 and") as raised:
                await ask(plane, f"tcp://127.0.0.1:{port}/{target}?v=2")
            refusals.append(raised.value)
    assert not connected.is_set()
    assert len(set(map(id, refusals))) == 3  # one that is raised again would keep all requests that it has met
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"127.0.0.1:{port}" in warnings[0].getMessage()


async def test_an_address_says_which_major_version_is_spoken_there(plane: TcpPlane) -> None:
    listener = await plane.listen(echo)
    assert listener.address.endswith(f"?v={wire.PROTOCOL_MAJOR}")


@pytest.mark.parametrize("options", ["v=", "v=x", "v=-1", "v=99999", "v=1&local=a.b", "v=1&local=" + "x" * 101])
async def test_options_that_make_no_sense_are_no_address(plane: TcpPlane, options: str) -> None:
    with pytest.raises(CannotConnect, match="is not an address"):
        await plane.call(f"tcp://127.0.0.1:1/1?{options}", b"", Context())


def test_the_newer_peer_of_these_tests_says_what_msgspec_of_ours_would_refuse_as_unknown() -> None:
    body = msgspec.msgpack.encode([[77, {"anything": [None, 1.5]}, "more"]])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(body, type=list[wire.Message])
