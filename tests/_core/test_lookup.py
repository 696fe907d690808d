"""Hosts are looked up in threads that hold up nobody: not who asks, nor the end of the process."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable

import pytest

from dynamo._core._lookup import HostAddress, Lookups

DEADLINE_S = 60.0
#: Asks a server whose name nobody resolves, then ends; the resolver has still not answered.
HANGING = """
import asyncio, socket, sys, threading, uvloop

def hang(*arguments, **options):
    print("asked", flush=True)
    threading.Event().wait()

socket.getaddrinfo = hang

async def main():
    from dynamo._core.discovery import open_discovery
    from dynamo._core.errors import CannotConnect
    from dynamo._core.event_plane import open_event_plane
    discovery = open_discovery("etcd://h1.test:2379" if sys.argv[2] == "etcd" else "memory:")
    try:
        await discovery.grant()
        await open_event_plane("nats://h1.test:4222", discovery)
    except CannotConnect as error:
        print(error)
    await discovery.close()

with asyncio.Runner(loop_factory=uvloop.new_event_loop if sys.argv[1] == "uvloop" else None) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("server", ["etcd", "nats"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_resolver_that_hangs_holds_up_neither_an_error_nor_the_end(loop: str, server: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HANGING, loop, server), stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    asked, error = said.decode().splitlines()
    assert asked == "asked"
    assert "h1.test" in error


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], str]], list[str]]:
    """Answers in the place of this host's resolver; returns the list of those who were asked for."""

    def use(answer: Callable[[str], str]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: None, **options: int) -> list[tuple[object, ...]]:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer(host), 0))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return use


async def test_addresses_are_not_looked_up(resolver: Callable[[Callable[[str], str]], list[str]]) -> None:
    asked = resolver(lambda host: "192.0.2.1")
    assert await Lookups().find("192.0.2.9") == [HostAddress("192.0.2.9", socket.AF_INET)]
    assert await Lookups().find("::1") == [HostAddress("::1", socket.AF_INET6)]
    assert asked == []


async def test_who_asks_for_the_same_host_shares_a_thread_and_leaves_without_the_others(
    resolver: Callable[[Callable[[str], str]], list[str]],
) -> None:
    may_answer = threading.Event()

    def answer(host: str) -> str:
        assert may_answer.wait(DEADLINE_S)
        return "192.0.2.1"

    asked = resolver(answer)
    lookups = Lookups()
    leaving, staying = (asyncio.create_task(lookups.find("h1.test")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    may_answer.set()
    assert await staying == [HostAddress("192.0.2.1", socket.AF_INET)]
    assert asked == ["h1.test"]
    assert await lookups.find("h1.test") == [HostAddress("192.0.2.1", socket.AF_INET)]
    assert asked == ["h1.test", "h1.test"]  # an answer is not kept: the next one may be another


async def test_a_host_that_no_thread_could_look_up_is_looked_up_again(
    resolver: Callable[[Callable[[str], str]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver(lambda host: "192.0.2.1")
    lookups = Lookups()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match=r"'h1\.test' cannot be looked up.*can't start new thread"):
            await lookups.find("h1.test")
    assert await lookups.find("h1.test") == [HostAddress("192.0.2.1", socket.AF_INET)]


async def test_a_host_that_nobody_knows_is_named(resolver: Callable[[Callable[[str], str]], list[str]]) -> None:
    def refuse(host: str) -> str:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolver(refuse)
    with pytest.raises(OSError, match=r"'h1\.test' is not known to the resolver of this host"):
        await Lookups().find("h1.test")
