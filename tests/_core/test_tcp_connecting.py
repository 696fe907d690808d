"""Connections that are given up, lost or closed while they are being made: nobody waits in vain, nothing is left."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests._core.secured import DEADLINE_S, TOKEN, Authority, ask, connect, echo, until_closed, where, with_token

from dynamo._core.context import Context
from dynamo._core.credentials import Credentials
from dynamo._core.errors import Cancelled, CannotConnect, DynamoError
from dynamo._core.request_plane._stats import PlaneStats
from dynamo._core.request_plane._tcp_server import TcpServer
from dynamo._core.request_plane.tcp import TcpPlane


class Deaf:
    """A process that takes connections and says nothing, as one that is stopped."""

    def __init__(self) -> None:
        self.address = ""
        self.reached = asyncio.Event()

    async def note(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.set()
        await reader.read()
        await reader.read()
        writer.close()


@asynccontextmanager
async def deaf() -> AsyncIterator[Deaf]:
    peer = Deaf()
    server = await asyncio.start_server(peer.note, "127.0.0.1", 0)
    peer.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/1"
    async with server:
        yield peer


async def test_killing_a_request_ends_its_wait_for_a_connection() -> None:
    calling, context = TcpPlane(), Context("unwanted")
    async with asyncio.timeout(DEADLINE_S), deaf() as peer:
        call = asyncio.ensure_future(calling.call(peer.address, b"", context))
        await peer.reached.wait()
        context.kill()
        with pytest.raises(Cancelled, match="unwanted"):  # and not that the peer says nothing
            await call
        await calling.close()


async def test_a_soft_stop_ends_no_wait_for_a_connection() -> None:
    calling, context = TcpPlane(), Context()
    async with asyncio.timeout(DEADLINE_S), deaf() as peer:
        call = asyncio.ensure_future(calling.call(peer.address, b"", context))
        await peer.reached.wait()
        context.stop_generating()
        with pytest.raises(CannotConnect, match="did not say hello"):
            await call
        await calling.close()


async def test_a_request_that_is_killed_does_not_take_the_connection_from_the_others() -> None:
    serving, calling = TcpPlane(local=False), TcpPlane()
    listener, unwanted = await serving.listen(echo), Context()
    killed = asyncio.ensure_future(calling.call(listener.address, b"one", unwanted))
    other = asyncio.ensure_future(calling.call(listener.address, b"two", Context()))
    await asyncio.sleep(0)
    unwanted.kill()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Cancelled):
            await killed
        assert [item async for item in await other] == [b"two"]
    await calling.close()
    await serving.close()


async def test_a_plane_that_is_closed_leaves_no_connection_in_the_making() -> None:
    calling, before = TcpPlane(), asyncio.all_tasks()
    async with asyncio.timeout(DEADLINE_S), deaf() as peer:
        call = asyncio.ensure_future(calling.call(peer.address, b"", Context()))
        await peer.reached.wait()
        served = {task for task in asyncio.all_tasks() if "Deaf" in repr(task)}
        await calling.close()
        assert asyncio.all_tasks() - served <= {*before, call}
        with pytest.raises(DynamoError, match="plane is closed"):
            await call


async def test_a_connection_that_was_given_up_while_it_was_made_does_not_stay() -> None:
    """The handshake of TLS may end in the turn in which its time is up."""
    server = TcpServer(Credentials(), PlaneStats())
    connection = server.connection()
    connection.abort(CannotConnect("its time was up"))
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock=ours)
    await until_closed(reader)
    assert not server.connections
    writer.close()


async def test_a_handshake_of_tls_ends_when_the_server_is_closed(tmp_path: Path) -> None:
    tls = Authority(tmp_path).issue("worker")
    serving = TcpPlane(local=False, credentials=with_token(None, tls))
    listener = await serving.listen(echo)
    sock = socket.create_connection(where(listener.address))
    sock.setblocking(False)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(20):  # until it is accepted
            await asyncio.sleep(0)
        await serving.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(sock=sock, ssl=tls.client_context(), server_hostname="worker")
    assert serving.stats.num_connections == 0
    assert serving.stats.hello_failures["tls"] == 0


async def test_a_refusal_is_logged_with_where_it_came_from(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    serving, calling = TcpPlane(local=False, credentials=with_token(TOKEN)), TcpPlane()
    listener = await serving.listen(echo)
    with pytest.raises(CannotConnect):
        await ask(calling, listener.address)
    host, port = where(listener.address)
    assert f"refusing a connection to {host}:{port}: it asks for the token" in caplog.text
    reader, writer = await connect(listener.address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await until_closed(reader)
    host, port = writer.get_extra_info("sockname")
    assert f"closing a connection from {host} port {port}: the peer does not speak this protocol" in caplog.text
    writer.close()
    await calling.close()
    await serving.close()


async def test_a_worker_that_only_its_own_host_reaches_is_told_apart_from_one_that_others_reach() -> None:
    """Two machines without DYN_REQUEST_PLANE: what the caller finds in discovery is a socket of the other one."""
    calling = TcpPlane()
    with pytest.raises(CannotConnect, match=r"its own host only.*Unix socket.*DYN_REQUEST_PLANE=tcp://ADDRESS"):
        await ask(calling, "tcp:///1?local=dynamo-of-another-machine&v=1")
    await calling.close()
