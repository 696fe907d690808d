"""A network in memory for the simulated loop: hosts, the ways between them, and what can go wrong on a way.

A way leads from one host to another, and can be cut, in one direction or both, clogged, or lossy: what TCP sends
again comes late. The connections are in `pipe.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.sim.host import Host, current_host
from tests.sim.loop import SimLoop
from tests.sim.pipe import Pipe, ProtocolFactory

#: A lost piece is sent again after so long.
RESEND_S = (0.2, 0.8)
#: What waited for a cut way to heal arrives so much later.
RESUME_S = (0.0, 1.0)
#: How often the kernels look for dead peers while a way is cut.
PROBE_S = 0.5

Way = tuple[str, str]


class Network:
    """All hosts and connections of one simulation."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.random = loop.random
        self.hosts: dict[str, Host] = {}
        self.pipes: dict[Pipe, None] = {}
        self.delay_s = (0.0001, 0.002)
        #: How likely a piece is lost, and sent again.
        self.loss = 0.0
        self._listening: dict[tuple[str, int], Server] = {}
        self._cut: set[Way] = set()
        self._clogged: dict[Way, float] = {}
        self._vanished: set[str] = set()
        self._next_port = 20_000
        self._probing = False

    def host(self, name: str) -> Host:
        host = Host(self.loop, name, f"10.0.{len(self.hosts) // 250}.{len(self.hosts) % 250 + 1}")
        self.hosts[host.address] = host
        return host

    # Faults.

    def cut(self, source: Host, target: Host) -> None:
        """Deliver nothing from one host to the other, until it is mended."""
        self._cut.add((source.address, target.address))
        self._probe()

    def mend(self, source: Host, target: Host) -> None:
        """Deliver again from one host to the other."""
        self._cut.discard((source.address, target.address))
        self._clogged.pop((source.address, target.address), None)
        self._probe()

    def clog(self, source: Host, target: Host, delay_s: float) -> None:
        """Deliver from one host to the other so much later."""
        self._clogged[source.address, target.address] = delay_s

    def heal(self) -> None:
        """Deliver everything again, at once and without loss. What has vanished stays away."""
        self._cut.clear()
        self._clogged.clear()
        self.loss = 0.0
        self._probe()

    def reset(self, one: Host, other: Host) -> None:
        """Break every connection between two hosts."""
        for pipe in list(self.pipes):
            if pipe.peer is not None and {pipe.host, pipe.peer.host} == {one, other}:
                pipe.break_off()

    def crash(self, host: Host, *, silently: bool) -> None:
        """End a host at once. Its kernel tells its peers, unless the whole machine is gone without a word."""
        host.crash()
        self.loop.note("vanishes" if silently else "crashes", host)
        if silently:
            self._vanished.add(host.address)
            self._probe()
            return
        for server in [server for server in self._listening.values() if server.address == host.address]:
            server.close()
        for pipe in list(self.pipes):
            if pipe.host is host:
                pipe.die()

    # The ways.

    def is_cut(self, source: Host, target: Host) -> bool:
        """Whether nothing gets from one host to the other now."""
        if source is target:
            return source.address in self._vanished
        ways = (source.address, target.address)
        return ways in self._cut or not self._vanished.isdisjoint(ways)

    def is_troubled(self, one: Host, other: Host) -> bool:
        """Whether two hosts cannot acknowledge what they hear of each other."""
        return self.is_cut(one, other) or self.is_cut(other, one)

    def delay(self, source: Host, target: Host) -> float:
        delay_s = self.random.uniform(*self.delay_s) + self._clogged.get((source.address, target.address), 0.0)
        if self.loss and self.random.random() < self.loss:
            delay_s += self.random.uniform(*RESEND_S)
        return delay_s

    def resume_delay(self) -> float:
        return self.random.uniform(*RESUME_S)

    def _probe(self) -> None:
        """Have the kernels look for dead peers, for as long as there may be some."""
        if not self._probing:
            self._probing = True
            self.loop.call_later(PROBE_S, self._probe_all)

    def _probe_all(self) -> None:
        self._probing = False
        troubled = False
        for pipe in list(self.pipes):
            troubled = pipe.probe() or troubled
        if troubled or self._cut:
            self._probe()

    # What the loop asks for.

    def listen(self, factory: ProtocolFactory, address: str, port: int) -> Server:
        host = current_host.get()
        if host is None or host.address != address:
            raise OSError(99, "Cannot assign requested address")
        if not port:
            self._next_port += 1
            port = self._next_port
        if (address, port) in self._listening:
            raise OSError(98, "Address already in use")
        server = self._listening[address, port] = Server(factory, host, port, self._forget)
        return server

    def listening(self, host: Host) -> list[int]:
        """The ports that are open on a host."""
        return [port for address, port in self._listening if address == host.address]

    def _forget(self, server: Server) -> None:
        self._listening.pop((server.address, server.port), None)

    async def connect(
        self, factory: ProtocolFactory, address: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect from the current host, for as long as it takes: the caller has a deadline."""
        here, there = current_host.get(), self.hosts.get(address)
        assert here is not None, "only hosts connect"
        if there is None:
            raise OSError(113, "No route to host")
        await asyncio.sleep(self.delay(here, there) + self.delay(there, here))
        while self.is_troubled(here, there):  # noqa: ASYNC110
            await asyncio.sleep(PROBE_S)
        server = self._listening.get((address, port))
        if server is None:
            self.loop.note(f"refused by {there}:{port}")
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = Pipe(self, here), Pipe(self, there)
        ours.join(theirs)
        self.loop.note(f"connects to {there}:{port}")
        theirs.start_soon(server.factory)
        protocol = factory()
        ours.start(protocol)
        return ours, protocol


class Server:
    """What `create_server` returns."""

    def __init__(self, factory: ProtocolFactory, host: Host, port: int, on_close: Callable[[Server], None]) -> None:
        self.factory = factory
        self.address = host.address
        self.port = port
        self._on_close = on_close

    @property
    def sockets(self) -> list[Server]:
        return [self]

    def getsockname(self) -> tuple[str, int]:
        return self.address, self.port

    async def start_serving(self) -> None:
        """It has accepted from the beginning."""

    def close(self) -> None:
        self._on_close(self)

    async def wait_closed(self) -> None:
        """It is closed at once."""
