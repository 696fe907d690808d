"""The tools that make faults do what they say: a fault that does not happen proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.system.fault_proxy import FaultProxy, fault_proxy
from tests.system.namespaces import Namespace
from tests.system.programs import environment_of, running

DEADLINE_S = 10.0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[tuple[FaultProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that echoes, through a proxy."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, fault_proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield proxy, reader, writer
        finally:
            writer.close()


async def test_the_proxy_passes_everything_on_until_it_is_told_otherwise() -> None:
    async with echo_behind_proxy() as (proxy, reader, writer):
        writer.write(b"x" * 1_000_000)
        assert await reader.readexactly(1_000_000) == b"x" * 1_000_000
        assert proxy.num_connections == proxy.num_open == 1


async def test_what_the_proxy_holds_back_arrives_when_it_lets_go() -> None:
    async with echo_behind_proxy() as (proxy, reader, writer):
        proxy.to_caller.hold()
        writer.write(b"late")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(4), 0.2)
        assert proxy.to_worker.num_bytes == 4
        proxy.to_caller.let_go()
        assert await reader.readexactly(4) == b"late"


async def test_the_proxy_delays_by_as_much_as_it_was_told() -> None:
    async with echo_behind_proxy() as (proxy, reader, writer):
        proxy.to_worker.delay_s = proxy.to_caller.delay_s = 0.15
        loop = asyncio.get_running_loop()
        began = loop.time()
        writer.write(b"slow")
        await reader.readexactly(4)
        assert loop.time() - began >= 0.3


async def test_the_proxy_cuts_after_the_byte_that_it_was_told() -> None:
    async with echo_behind_proxy() as (proxy, reader, writer):
        proxy.to_caller.cut_after_bytes = 7
        writer.write(b"0123456789")
        assert await reader.read() == b"0123456"


async def test_a_reset_of_the_proxy_is_a_reset_at_both_ends() -> None:
    async with echo_behind_proxy() as (proxy, reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_a_frozen_process_is_in_state_t_and_a_thawed_one_is_not() -> None:
    async with running("http.server", "0", environment=environment_of("memory:")) as program:
        await program.line("Serving")
        await program.freeze()
        assert program.state() == "T"
        await program.thaw()
        assert program.state() != "T"


async def test_a_parted_namespace_hears_nothing_until_it_heals(elsewhere: Namespace) -> None:
    program = ("http.server", "7070", "--bind", elsewhere.data_host)
    async with running(*program, environment=environment_of("memory:"), before=elsewhere.prefix) as server:
        await server.line("Serving")
        await _connects(elsewhere.data_host)
        await elsewhere.part()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_connects(elsewhere.data_host), 0.3)
        await elsewhere.heal()
        await _connects(elsewhere.data_host)


async def test_a_link_that_loses_packets_loses_some_in_each_direction_and_the_connection_lives(
    elsewhere: Namespace,
) -> None:
    program = ("http.server", "7070", "--bind", elsewhere.data_host)
    async with running(*program, environment=environment_of("memory:"), before=elsewhere.prefix) as server:
        await server.line("Serving")
        reader, writer = await asyncio.open_connection(elsewhere.data_host, 7070)
        writer.write(b"HEAD / HTTP/1.0\r\nname: ")
        await elsewhere.lose(percent=30)
        async with asyncio.timeout(6 * DEADLINE_S):  # what is lost is sent again, later each time
            while not all(await elsewhere.num_lost()):
                writer.write(b"x")
            writer.write(b"\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 200 OK")
        writer.close()


async def _connects(host: str) -> None:
    _, writer = await asyncio.open_connection(host, 7070)
    writer.close()
