"""The simulated network: what arrives, when it does not, and what each end is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.sim.host import Host
from tests.sim.loop import SimLoop, run
from tests.sim.network import Network
from tests.sim.pipe import KEEPALIVE_S, USER_TIMEOUT_S


class End(asyncio.Protocol):
    """One end, and all that it was told."""

    def __init__(self) -> None:
        self.received = b""
        self.told: list[str] = []
        self.lost_at: float | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> None:
        self.told.append("end")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost" if exc is None else type(exc).__name__)
        self.lost_at = asyncio.get_running_loop().time()


class Scene:
    """A connection between two hosts."""

    def __init__(self, network: Network, a: Host, b: Host, client: End, server: End) -> None:
        self.network, self.a, self.b, self.client, self.server = network, a, b, client, server

    def say(self, data: bytes) -> None:
        assert self.client.transport is not None
        self.client.transport.write(data)


def play(act: Callable[[Scene], Awaitable[None]], seed: int = 0) -> None:
    async def main(loop: SimLoop) -> None:
        network = loop.network
        a, b = network.host("a"), network.host("b")
        served: list[End] = []

        def serve() -> End:
            served.append(End())
            return served[-1]

        async def listen() -> int:
            server = await loop.create_server(serve, b.address, 0)
            return int(server.sockets[0].getsockname()[1])

        async def connect(port: int) -> End:
            end = (await loop.create_connection(End, b.address, port))[1]
            assert isinstance(end, End)
            return end

        client = await a.run(connect(await b.run(listen())))
        await asyncio.sleep(0.1)
        await act(Scene(network, a, b, client, served[0]))

    run(main, seed)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_sent_arrives_in_order(seed: int) -> None:
    async def act(scene: Scene) -> None:
        scene.network.loss = 0.3
        pieces = [b"%d," % number * 50 for number in range(100)]
        for piece in pieces:
            scene.say(piece)
            await asyncio.sleep(0.001)
        await asyncio.sleep(60.0)
        assert scene.server.received == b"".join(pieces)

    play(act, seed)


def test_what_is_sent_through_a_cut_waits_and_arrives_if_it_is_short() -> None:
    async def act(scene: Scene) -> None:
        scene.network.cut(scene.a, scene.b)
        scene.say(b"late")
        await asyncio.sleep(USER_TIMEOUT_S / 2)
        assert scene.server.received == b""
        scene.network.mend(scene.a, scene.b)
        await asyncio.sleep(2.0)
        assert scene.server.received == b"late"
        assert scene.client.told == ["made"]

    play(act)


def test_a_cut_of_any_length_never_leaves_one_end_alone() -> None:
    for number in range(40):

        async def act(scene: Scene, cut_s: float = 0.05 + 0.2 * number) -> None:
            scene.network.cut(scene.a, scene.b)
            scene.say(b"x")
            await asyncio.sleep(cut_s)
            scene.network.heal()
            await asyncio.sleep(20.0)
            assert (scene.client.lost_at is None) == (scene.server.lost_at is None), cut_s

        play(act, number)


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_long_cut_ends_the_connection_at_both_ends(both_ways: bool) -> None:
    async def act(scene: Scene) -> None:
        began_at = asyncio.get_running_loop().time()
        scene.network.cut(scene.a, scene.b)
        if both_ways:
            scene.network.cut(scene.b, scene.a)
        scene.say(b"lost")
        await asyncio.sleep(10.0)
        assert scene.client.told[-1] == scene.server.told[-1] == "TimeoutError"
        assert scene.client.lost_at is not None
        assert scene.client.lost_at - began_at <= USER_TIMEOUT_S + 1.5
        assert scene.server.lost_at is not None
        assert scene.server.lost_at - began_at <= KEEPALIVE_S + 1.5

    play(act)


def test_the_peer_of_a_killed_process_is_told_at_once() -> None:
    async def act(scene: Scene) -> None:
        scene.network.crash(scene.b, silently=False)
        await asyncio.sleep(0.1)
        assert scene.client.told[-1] in ("end", "lost", "ConnectionResetError")
        assert scene.server.told == ["made"]

    for seed in range(10):
        play(act, seed)


def test_the_peer_of_a_machine_that_vanished_finds_out_later() -> None:
    async def act(scene: Scene) -> None:
        scene.network.crash(scene.b, silently=True)
        await asyncio.sleep(KEEPALIVE_S - 1.0)
        assert scene.client.told == ["made"]
        await asyncio.sleep(3.0)
        assert scene.client.told[-1] == "TimeoutError"

    play(act)


def test_a_stopped_host_takes_what_fits_into_its_buffer_and_no_more() -> None:
    async def act(scene: Scene) -> None:
        scene.b.stop()
        for _ in range(100):
            scene.say(bytes(10_000))
            await asyncio.sleep(0.01)
        await asyncio.sleep(60.0)
        assert scene.client.told == ["made", "pause"]
        assert scene.server.received == b""
        scene.b.go_on()
        await asyncio.sleep(5.0)
        assert len(scene.server.received) == 1_000_000
        assert scene.client.told == ["made", "pause", "resume"]

    play(act)


def test_a_connection_that_is_closed_delivers_what_was_written() -> None:
    async def act(scene: Scene) -> None:
        scene.say(b"last words")
        assert scene.client.transport is not None
        scene.client.transport.close()
        await asyncio.sleep(1.0)
        assert scene.server.received == b"last words"
        assert scene.server.told == ["made", "end", "lost"]
        assert scene.client.told == ["made", "lost"]
        assert not scene.network.pipes

    play(act)


def test_nobody_answers_where_nobody_listens() -> None:
    async def main(loop: SimLoop) -> None:
        a, b = loop.network.host("a"), loop.network.host("b")

        async def connect() -> None:
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(End, b.address, 1)

        await a.run(connect())

    run(main, 0)
