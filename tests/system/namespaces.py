"""A second host on this one: a network namespace with two links to ours.

One link carries the data and is the one that fails; the other carries what a test asks a worker
meanwhile. An abstract Unix socket does not reach into another namespace, so a worker there is called over TCP as on
another host. Needs root and the tools of iproute2.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT

TIMEOUT_S = 10.0
#: A program of the kernel's packet filter: take a random word, and drop the packet if it is below the number that is
#: filled in. This needs no netem, no nftables and no tool but `tc`.
_DROP_BELOW = "4,32 0 0 4294963256,53 1 0 {},6 0 0 2,6 0 0 0"


def why_not() -> str | None:
    """Why no namespace can be made here; None if one can."""
    if sys.platform != "linux":
        return "network namespaces are a part of Linux"
    if os.geteuid() != 0:
        return "making a network namespace takes root"
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            return f"there is no `{command}` command; on Debian: apt-get install iproute2"
    return None


async def run(*command: str) -> str:
    """Run a command of the system; return what it said. Raises `OSError` if it failed."""
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    if process.returncode != 0:
        raise OSError(f"{' '.join(command)}: {output.decode().strip()}")
    return output.decode()


class Namespace:
    """A namespace, its two links, and how to hurt the one that carries data."""

    def __init__(self, number: int) -> None:
        # Several test runs may share a host, and interface names are short.
        self.name = f"dyn{number:04x}"
        self._data, self._control = f"{self.name}d", f"{self.name}c"
        high, low = divmod(number, 256)
        self._net = f"10.{160 + high % 64}.{low}"

    @classmethod
    def of_this_process(cls) -> Namespace:
        return cls(os.getpid() & 0xFFFF)

    @property
    def data_host(self) -> str:
        """Where a worker in the namespace listens for requests."""
        return f"{self._net}.2"

    @property
    def our_host(self) -> str:
        """Our end of the link that carries data."""
        return f"{self._net}.1"

    @property
    def control_host(self) -> str:
        """Where a worker's system server listens."""
        return f"{self._net}.6"

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs another one in the namespace."""
        return ("ip", "netns", "exec", self.name)

    async def make(self) -> None:
        await run("ip", "netns", "add", self.name)
        await run("ip", "-n", self.name, "link", "set", "lo", "up")
        await self._link(self._data, self.our_host, self.data_host)
        await self._link(self._control, f"{self._net}.5", self.control_host)

    async def _link(self, name: str, ours: str, theirs: str) -> None:
        peer = f"{name}p"
        await run("ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", self.name)
        await run("ip", "addr", "add", f"{ours}/30", "dev", name)
        await run("ip", "link", "set", name, "up")
        await run("ip", "-n", self.name, "addr", "add", f"{theirs}/30", "dev", peer)
        await run("ip", "-n", self.name, "link", "set", peer, "up")

    async def remove(self) -> None:
        for name in (self._data, self._control):
            await _quietly("ip", "link", "del", name)
        await _quietly("ip", "netns", "del", self.name)

    # Faults.

    async def part(self) -> None:
        """Nothing passes the data link in either direction, and nobody is told.

        It goes down at the far end: without our own end's route, what we send would leave by another link.
        """
        await run("ip", "-n", self.name, "link", "set", f"{self._data}p", "down")
        assert "NO-CARRIER" in await run("ip", "link", "show", self._data)

    async def heal(self) -> None:
        await run("ip", "-n", self.name, "link", "set", f"{self._data}p", "up")
        assert "NO-CARRIER" not in await run("ip", "link", "show", self._data)

    async def silence_replies(self) -> None:
        """What we send arrives there; what is sent from there is dropped before it leaves."""
        await run("ip", "-n", self.name, "route", "add", "blackhole", f"{self.our_host}/32")
        assert "blackhole" in await run("ip", "-n", self.name, "route", "show")

    async def reset_connections(self) -> int:
        """Send RST on every connection to the data address; return how many there were."""
        killed = await run("ss", "--kill", "--no-header", "--tcp", "state", "established", "dst", self.data_host)
        return len(killed.strip().splitlines())

    async def narrow(self, kbit_per_s: int) -> None:
        """Let so much pass per second towards the worker, and back."""
        shape = ("root", "tbf", "rate", f"{kbit_per_s}kbit", "burst", "4k", "latency", "2s")
        await run("tc", "qdisc", "add", "dev", self._data, *shape)
        await run("tc", "-n", self.name, "qdisc", "add", "dev", f"{self._data}p", *shape)

    async def lose(self, percent: float) -> None:
        """Lose so many of the packets of the data link, at random, in each direction."""
        program = _DROP_BELOW.format(round(percent / 100 * 2**32))
        for tc, device in self._ends():
            await run(*tc, "qdisc", "add", "dev", device, "clsact")
            await run(*tc, "filter", "add", "dev", device, "ingress", "bpf", "direct-action", "bytecode", program)

    async def num_lost(self) -> list[int]:
        """How many packets `lose` has taken, towards us and towards the other host."""
        lost = []
        for tc, device in self._ends():
            for queue in json.loads(await run(*tc, "-json", "-statistics", "qdisc", "show", "dev", device)):
                if queue["kind"] == "clsact":
                    lost.append(int(queue["drops"]))
        return lost

    def _ends(self) -> list[tuple[tuple[str, ...], str]]:
        """The two ends of the data link: the command that shapes each, and its name."""
        return [(("tc",), self._data), (("tc", "-n", self.name), f"{self._data}p")]


async def _quietly(*command: str) -> None:
    """Run a command whose failure means that there was nothing to do."""
    try:
        await run(*command)
    except OSError:
        return
