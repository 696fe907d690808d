"""Events between the hosts of a simulation: late, lost, twice, in another order, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field

from tests.sim.host import Host, current_host
from tests.sim.loop import SimLoop
from tests.sim.outside import outside

from dynamo._core.event_plane._inbox import Inbox
from dynamo._core.event_plane.base import Event, Gap
from dynamo._core.event_plane.inproc import EventBus, InprocEventPlane

DELAY_S = (0.0001, 0.05)
LATE_S = (0.1, 5.0)
SUBJECT = "sim.events"
PAUSE_S = (0.05, 2.0)


class FaultyBus(EventBus):
    """Carries events as a bad network would, while it is bad."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__()
        self._loop = loop
        self._hosts: dict[Inbox, Host | None] = {}
        #: How likely an event is lost, comes twice, or comes late; heads, too.
        self.badness = 0.0
        #: Who hears of nobody, and of whom nobody hears.
        self.cut_off: set[Host] = set()

    def event(self, subject: str, publisher_id: int, sequence: int, payload: bytes) -> None:
        self._carry(subject, lambda inbox: inbox.push(publisher_id, sequence, payload))

    def head(self, subject: str, publisher_id: int, sequence: int) -> None:
        self._carry(subject, lambda inbox: inbox.head(publisher_id, sequence))

    def add(self, inbox: Inbox) -> None:
        self._hosts[inbox] = current_host.get()
        super().add(inbox)

    def remove(self, inbox: Inbox) -> None:
        self._hosts.pop(inbox, None)
        super().remove(inbox)

    def _carry(self, subject: str, give: Callable[[Inbox], None]) -> None:
        teller = current_host.get()

        def arrive() -> None:
            for inbox in self._inboxes.get(subject, ()):
                if self.cut_off.isdisjoint((teller, self._hosts[inbox])):
                    give(inbox)

        for at_s in self._arrivals():
            outside(self._loop, at_s, arrive)

    def _arrivals(self) -> list[float]:
        """When it arrives: at no time, once, or twice."""
        random, now = self._loop.random, self._loop.time()
        arrivals = [now + random.uniform(*DELAY_S)]
        if random.random() < self.badness:
            arrivals.append(now + random.uniform(*LATE_S))
        return [at_s for at_s in arrivals if random.random() >= self.badness / 2]


@dataclass
class Heard:
    """What a listener heard of each publisher, and what was wrong with it."""

    #: The last event that was heard of or told to be missing.
    up_to: dict[int, int] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)

    def note(self, item: Event | Gap) -> None:
        """Take what a subscription gave: in order, each once, and every loss told before what follows it."""
        publisher = item.publisher_id
        last = self.up_to.get(publisher)
        if isinstance(item, Gap):
            if item.missed is None:
                self.wrongs.append(f"publisher {publisher:x} was taken for another one")
            elif last is not None:
                self.up_to[publisher] = last + item.missed
            return
        if last is not None and item.sequence != last + 1:
            self.wrongs.append(f"event {item.sequence} of {publisher:x} came where {last + 1} was due")
        if item.payload != b"%d" % item.sequence:
            self.wrongs.append(f"event {item.sequence} of {publisher:x} says {item.payload!r}")
        self.up_to[publisher] = item.sequence


class Air:
    """The event planes of a simulation, and what was said and heard on them."""

    def __init__(self, loop: SimLoop) -> None:
        self.bus = FaultyBus(loop)
        #: Whether there is still something to say.
        self.is_busy = True
        self._loop = loop
        self._published: dict[int, int] = {}
        self._heard: dict[Host, Heard] = {}

    def plane(self) -> InprocEventPlane:
        """Return the plane of one process."""
        return InprocEventPlane(self.bus, random=self._loop.random)

    async def publish(self, plane: InprocEventPlane) -> None:
        """Publish a counted event now and then, until all has been said."""
        while self.is_busy:
            await asyncio.sleep(self._loop.random.uniform(*PAUSE_S))
            number = self._published.get(plane.publisher_id, 0) + 1
            self._published[plane.publisher_id] = number
            await plane.publish(SUBJECT, b"%d" % number)

    async def listen(self, plane: InprocEventPlane, host: Host) -> None:
        """Listen until the plane is closed."""
        heard = self._heard[host] = Heard()
        async with aclosing(plane.subscribe(SUBJECT)) as subscription:
            async for item in subscription:
                heard.note(item)

    def wrongs(self, living: Collection[int]) -> list[str]:
        """What was heard wrongly, or never of those who live: ask when the air is clear and all heads were said."""
        wrongs = []
        for host, heard in self._heard.items():
            wrongs += [f"{host}: {wrong}" for wrong in heard.wrongs]
            if host.is_dead:
                continue
            for publisher, last in heard.up_to.items():
                if last != self._published[publisher] and publisher in living:
                    wrongs.append(f"{host} heard {last} of {self._published[publisher]} events of {publisher:x}")
        return wrongs
