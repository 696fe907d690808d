"""One end of a simulated connection, as a transport of asyncio: what its protocol writes travels to the other end.

What is sent arrives in order and late, in pieces of any size. While the way is cut it waits, and as with real
sockets, whose options the runtime sets, the connection is lost after `USER_TIMEOUT_S` with data that nobody
acknowledged, and after `KEEPALIVE_S` without. A host that is stopped still acknowledges, until its buffer is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING

from tests.sim.host import Host, current_host

if TYPE_CHECKING:
    from tests.sim.network import Network

USER_TIMEOUT_S = 3.0
KEEPALIVE_S = 4.0
#: What a host takes that does not read.
RECEIVE_BUFFER_BYTES = 256 << 10
#: What a kernel holds of a process that has closed its end.
SEND_BUFFER_BYTES = 256 << 10
#: How likely what is written arrives in two pieces.
SPLIT = 0.1

ProtocolFactory = Callable[[], asyncio.Protocol]


class Pipe(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, host: Host) -> None:
        super().__init__()
        self.host = host
        self.peer: Pipe | None = None
        #: Whether this end is closed, for its host or by it.
        self.is_over = False
        self.protocol: asyncio.Protocol | None = None
        self._network = network
        self._loop = network.loop
        self._context = copy_context()
        self._context.run(current_host.set, host)
        # What is on its way to the peer: each piece with the time of its arrival; None is the end.
        self._travelling: deque[tuple[float, bytes | None]] = deque()
        self._unsent_bytes = 0
        self._arrival_s = 0.0
        self._pumping = False
        self._troubled_since: float | None = None
        # What has arrived here and was not read.
        self._unread_bytes = 0
        self._high = 64 << 10
        self._is_paused = False
        self._closing = False

    def join(self, peer: Pipe) -> None:
        """Make a connection of two ends."""
        self.peer, peer.peer = peer, self
        self._network.pipes[self] = None
        self._network.pipes[peer] = None

    def start(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        self._context.copy().run(protocol.connection_made, self)

    def start_soon(self, factory: ProtocolFactory) -> None:
        """Accept the connection, once the host gets to it."""
        self._soon(lambda: None if self.is_over else self.start(factory()))

    # asyncio.Transport, as far as it is used.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self.is_over or not data:
            return
        piece, random = bytes(data), self._network.random
        if len(piece) > 1 and random.random() < SPLIT:
            cut = random.randrange(1, len(piece))
            self._send(piece[:cut])
            piece = piece[cut:]
        self._send(piece)

    def close(self) -> None:
        """Send what was written, then the end."""
        if not self._closing and not self.is_over:
            self._closing = True
            self._send(None)
            if self._unsent_bytes <= SEND_BUFFER_BYTES:
                self._soon(self._lose, None)  # the kernel sees to the rest

    def abort(self) -> None:
        """Drop what was written, and break the connection."""
        if not self.is_over:
            self._closing = True
            self._clear()
            self._tell_peer()
            self._soon(self._lose, None)

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = self._high if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    def get_extra_info(self, name: str, default: object = None) -> object:
        if name == "peername" and self.peer is not None:
            return self.peer.host.address, 0
        return default

    # The journey.

    def _send(self, data: bytes | None) -> None:
        peer = self.peer
        assert peer is not None
        self._arrival_s = max(self._arrival_s, self._loop.time() + self._network.delay(self.host, peer.host))
        self._travelling.append((self._arrival_s, data))
        self._unsent_bytes += 0 if data is None else len(data)
        if not self._is_paused and self._unsent_bytes > self._high and self.protocol is not None:
            self._is_paused = True
            self.protocol.pause_writing()
        self._pump()

    def _pump(self, delay_s: float = 0.0) -> None:
        """Deliver what has arrived, and come again for the rest."""
        if self._pumping or not self._travelling:
            return
        self._pumping = True
        at = max(self._travelling[0][0], self._loop.time() + delay_s)
        self._outside(self._loop.call_at, at, self._deliver)

    def _deliver(self) -> None:
        self._pumping = False
        peer = self.peer
        if peer is None or not self._travelling:
            return
        if self._network.is_cut(self.host, peer.host):
            self._note_trouble()
            self._pumping = True  # probe() goes on, or ends it
            return
        if peer.is_over:
            self._hear_reset()
            return
        now = self._loop.time()
        while self._travelling and self._travelling[0][0] <= now and peer._unread_bytes < RECEIVE_BUFFER_BYTES:
            _, data = self._travelling.popleft()
            self._loop.note(f"> {peer.host} {'end' if data is None else len(data)}", self.host)
            if data is None:
                peer._soon(peer._receive_end)
                self._soon(self._lose, None)
            else:
                self._unsent_bytes -= len(data)
                peer._unread_bytes += len(data)
                peer._soon(peer._receive, data)
        if self._is_paused and self._unsent_bytes <= self._high // 4:
            self._is_paused = False
            self._soon(self._resume)
        if peer._unread_bytes < RECEIVE_BUFFER_BYTES:
            self._pump()

    def probe(self) -> bool:
        """Look whether the peer is there, as a kernel does; return whether there is reason to look again."""
        peer = self.peer
        if peer is None or self.is_over or self.host.is_dead:
            return False
        if self._network.is_troubled(self.host, peer.host):
            now = self._loop.time()
            self._note_trouble()
            assert self._troubled_since is not None
            limit_s = USER_TIMEOUT_S if self._travelling else KEEPALIVE_S
            if now - self._troubled_since >= limit_s:
                self._clear()
                self._soon(self._lose, TimeoutError(110, "Connection timed out"))
            return True
        if self._troubled_since is not None:
            self._troubled_since = None
            self._pumping = False
            self._pump(self._network.resume_delay())
            if peer.is_over and peer._travelling and not peer.host.is_dead:
                peer._pumping = False
                peer._pump(self._network.resume_delay())
            elif peer.is_over:  # it has given up, and says so when it hears of us
                self._outside(self._loop.call_later, self._network.resume_delay(), self._hear_reset)
        return False

    def _note_trouble(self) -> None:
        if self._troubled_since is None:
            self._troubled_since = self._loop.time()

    # How it ends.

    def break_off(self) -> None:
        """Break this end from outside, as a firewall does with a false RST."""
        self._clear()
        self._hear_reset()

    def die(self) -> None:
        """The process of this end is gone: its kernel closes the connection, after what was sent or at once."""
        self.is_over = True
        self._network.pipes.pop(self, None)
        peer = self.peer
        if peer is None or peer.is_over:
            return
        sent = [data for _, data in self._travelling if data is not None]
        self._clear()
        if not self._network.is_cut(self.host, peer.host) and self._network.random.random() < 0.5:
            for data in sent:
                peer._unread_bytes += len(data)
                peer._soon(peer._receive, data)
            peer._soon(peer._receive_end)
        else:
            self._tell_peer()

    def _tell_peer(self) -> None:
        peer = self.peer
        if peer is None or peer.is_over:
            return
        if self._network.is_cut(self.host, peer.host):
            peer._note_trouble()  # it hears of it when it asks
        else:
            delay_s = self._network.delay(self.host, peer.host)
            self._outside(self._loop.call_later, delay_s, peer._hear_reset)

    def _hear_reset(self) -> None:
        if not self.is_over:
            self._clear()
            self._soon(self._lose, ConnectionResetError(104, "Connection reset by peer"))

    def _clear(self) -> None:
        self._travelling.clear()
        self._unsent_bytes = 0

    # What runs on the host.

    def _receive(self, data: bytes) -> None:
        self._unread_bytes -= len(data)
        if self.peer is not None:
            self.peer._pump()
        if not self.is_over and self.protocol is not None and not self._closing:
            self.protocol.data_received(data)

    def _receive_end(self) -> None:
        if not self.is_over and self.protocol is not None:
            if not self._closing:
                self.protocol.eof_received()
            self.close()

    def _resume(self) -> None:
        if not self.is_over and self.protocol is not None:
            self.protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if self.is_over:
            return
        self.is_over = self._closing = True
        self._network.pipes.pop(self, None)
        if self.protocol is not None:
            self._loop.note(f"loses {self.peer and self.peer.host}: {type(error).__name__}", self.host)
            self.protocol.connection_lost(error)

    def _soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon(callback, *arguments, context=self._context.copy())

    def _outside(self, schedule: Callable[..., object], when: float, callback: Callable[[], object]) -> None:
        """Schedule something that happens in no host."""
        context = self._context.copy()
        context.run(current_host.set, None)
        schedule(when, callback, context=context)
