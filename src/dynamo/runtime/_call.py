"""One request of a client: which instance has it, and where else it may go while nobody has begun it.

An instance says of a request that it has not begun it by not being reached (`CannotConnect`), or by an answer
that is `WorkerUnavailable` or `Overloaded` before any item. Such a request goes to another instance, at most
`CONNECT_ATTEMPTS` in all. After `Overloaded` it is load on top of load, so those retries have a budget; the others
have none, and who gave reason for them is passed over. A request that has begun is never sent again from here: only
its caller knows whether that is right.

The answer arrives as the first thing on the stream, so that is where the retry is: the reader of a stream asks
`recover` when it fails, and `begin`s it with the first items. Nothing is done for a later item.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Container

from dynamo._core import request_plane
from dynamo._core.address import EndpointId
from dynamo._core.context import Context
from dynamo._core.errors import (
    RELAYED,
    CannotConnect,
    Disconnected,
    DynamoError,
    NoInstances,
    Overloaded,
    Stalled,
    WorkerUnavailable,
)
from dynamo.runtime._instances import Instance, Instances
from dynamo.runtime._measured import Called, RetryReason, StallPhase
from dynamo.runtime._quarantine import Fault, Quarantine
from dynamo.runtime._retry_budget import RetryBudget
from dynamo.runtime._timeouts import StreamTimeouts, StreamWatch

logger = logging.getLogger(__name__)

#: So many instances are tried before a request that nobody has begun fails.
CONNECT_ATTEMPTS = 3
#: A silent peer is disconnected in less time than this, so a request that waits for longer has a live one.
LIVE_AFTER_S = 9.0

#: Chooses one of these instances.
Choose = Callable[[list[int]], int]


class Caller:
    """What the requests of one client share: the way out, and what is known of the instances."""

    def __init__(
        self,
        endpoint: EndpointId,
        requests: request_plane.RequestPlane,
        instances: Instances,
        timeouts: StreamTimeouts,
        called: Called,
    ) -> None:
        self.endpoint = endpoint
        self.requests = requests
        self.instances = instances
        self.called = called
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.clock: Callable[[], float] = self.loop.time
        self.quarantine: Quarantine = Quarantine()
        self.budget: RetryBudget = RetryBudget(self.clock())
        self.watch: StreamWatch = StreamWatch(timeouts, lambda: self.budget.turn(self.clock()))

    def candidates(self, avoid: Container[int] = (), tried: Collection[int] = ()) -> list[int]:
        """The instances to choose from. Raises `NoInstances` if there is none beside those to avoid."""
        ids = self.instances.ids
        if not ids:
            raise NoInstances(
                f"no instances found for endpoint {str(self.endpoint)!r}; is a worker running?",
                endpoint=str(self.endpoint),
            )
        if avoid or tried:
            ids = [id for id in ids if id not in avoid and id not in tried]
            if not ids:
                raise NoInstances(
                    f"none of the {len(self.instances.ids)} instances of {self.endpoint} is left for this request",
                    endpoint=str(self.endpoint),
                )
        return self.quarantine.usable(ids, self.clock()) if self.quarantine.out else ids

    def note_fault(self, instance: Instance, fault: Fault, reason: str, *, is_probe: bool) -> None:
        """Pass over an instance for a while, unless it has left meanwhile, or is at another address."""
        id = instance.instance_id
        if self.instances.by_id.get(id) != instance:
            return
        if self.quarantine.note_fault(id, fault, self.clock(), is_probe=is_probe):
            self.called.quarantined[fault] += 1
            logger.warning("instance %x of %s is passed over (%s): %s", id, self.endpoint, fault, reason)

    def note_answer(self, instance_id: int, mark: int) -> None:
        """An instance has answered."""
        if instance_id in self.quarantine:
            self.quarantine.note_answer(instance_id, mark)
            self._tell_if_free(instance_id)

    def note_life(self, instance_id: int, mark: int) -> None:
        """The process of an instance is alive."""
        if instance_id in self.quarantine:
            self.quarantine.note_life(instance_id, mark)
            self._tell_if_free(instance_id)

    def _tell_if_free(self, instance_id: int) -> None:
        if instance_id not in self.quarantine:
            logger.info("instance %x of %s answers again", instance_id, self.endpoint)


class Call:
    """A request on its way, or with an instance."""

    __slots__ = (
        "_avoid",
        "_caller",
        "_choose",
        "_context",
        "_is_probe",
        "_left",
        "_mark",
        "_payload",
        "_tried",
        "_verdict",
        "has_begun",
        "instance",
        "instance_id",
        "is_open",
        "items",
        "turns_waited",
        "waits",
        "waits_seen",
    )

    def __init__(
        self, caller: Caller, payload: bytes, context: Context, choose: Choose | None, avoid: Container[int] = ()
    ) -> None:
        if asyncio.get_running_loop() is not caller.loop:
            raise DynamoError(
                "this client belongs to another event loop, or thread: make one there, or call through "
                "asyncio.run_coroutine_threadsafe"
            )
        self._caller = caller
        self._context = context
        self._choose = choose  # None: one instance was asked for, and no other will do
        # Asked again for every try: who is to be avoided may change.
        self._avoid = avoid
        # Kept until the request has begun, to send it once more.
        self._payload = payload
        self.items: request_plane.ResponseStream
        #: Who has the request.
        self.instance: Instance
        self.instance_id: int = -1
        #: Whether the instance has answered it.
        self.has_begun: bool = False
        #: Whether there is something to close.
        self.is_open: bool = False
        #: Goes up when the reader begins to wait and when it has what it waited for: odd while it waits.
        self.waits: int = 0
        # What the watch has seen.
        self.waits_seen: int = -1
        self.turns_waited: int = 0
        # Instances that did not begin it, and what was known when it was sent to the last one.
        self._tried: tuple[int, ...] = ()
        self._mark = 0
        self._is_probe = False
        # How it ended before its end: what its reader is yet to be told.
        self._left = False
        self._verdict: DynamoError | None = None

    # Sending.

    async def send_to(self, instance: Instance) -> None:
        """Send the request to this instance. Raises `CannotConnect`, which names it."""
        caller = self._caller
        self.instance, self.instance_id = instance, instance.instance_id
        quarantine = caller.quarantine
        if quarantine.out:
            self._mark = quarantine.mark
            self._is_probe = quarantine.begin(instance.instance_id, caller.clock())
        try:
            self.items = await caller.requests.call(instance.address, self._payload, self._context)
        except CannotConnect as error:
            named = self._named(error, "cannot be reached")
            self._note_fault(Fault.UNREACHABLE, named)
            raise named from error
        except BaseException:
            self._give_up_probe()
            raise
        self.is_open = True
        caller.watch.add(self)

    async def send_elsewhere(self, error: DynamoError) -> None:
        """Send it to other instances until one takes it; `error`, which is raised if none does, is why."""
        assert self._choose is not None
        while candidates := self._others(error):
            try:
                chosen = self._choose(candidates)
            except (NoInstances, Overloaded) as nobody:
                raise error from nobody  # none of those that are left is right for it
            try:
                return await self.send_to(self._caller.instances.by_id[chosen])
            except (CannotConnect, Overloaded) as refusal:
                error = refusal
        raise error

    def _others(self, error: DynamoError) -> list[int]:
        """The instances that the request may go to after this error; none if that is enough."""
        caller = self._caller
        self._tried = (*self._tried, self.instance_id)
        self.waits_seen = -1  # the watch begins anew
        if len(self._tried) >= CONNECT_ATTEMPTS:
            return []
        try:
            candidates = caller.candidates(self._avoid, self._tried)
        except NoInstances:
            return []
        reason = RetryReason(error.code) if error.code in _REASONS else RetryReason.CANNOT_CONNECT
        if reason is RetryReason.OVERLOADED and not caller.budget.take(caller.clock()):
            caller.called.retries_denied += 1
            return []
        caller.called.retries[reason] += 1
        return candidates

    # What its reader tells.

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._caller.loop

    @property
    def is_waiting(self) -> bool:
        """Whether the reader waits for items."""
        return self.waits % 2 == 1

    def begin(self) -> None:
        """The instance has answered: the request is its own."""
        self.has_begun = True
        self._payload = b""
        caller = self._caller
        caller.watch.moved[self.instance.instance_id] = caller.watch.turn
        if caller.quarantine.out:
            caller.note_answer(self.instance_id, self._mark)
        self._give_up_probe()  # if a newer fault keeps it out, the next request may try it

    async def recover(self, error: DynamoError) -> list[bytes]:
        """The stream has failed. Return the first items that another instance has for it, or raise."""
        while True:
            refused = not self.has_begun and self.is_open and error.is_remote and RELAYED not in error.details
            if self._caller.watch.remove(self):
                self._note_failure(error)
            self.is_open = False
            if isinstance(error, Disconnected) and not error.is_remote:
                raise self._named(error, "was lost") from error
            if self._choose is None or not (refused and isinstance(error, Overloaded | WorkerUnavailable)):
                raise error
            try:
                await self.send_elsewhere(error)
            except asyncio.CancelledError:
                self._verdict = error  # the reader may yet ask again
                raise
            if self._left:
                self.leave()
                return []
            try:
                return await self.items.batch()
            except DynamoError as failure:
                error = failure

    def end(self) -> None:
        """There are no more items. Raises what the reader is yet to be told: `Stalled` if they took too long."""
        self._caller.watch.remove(self)
        if self.is_open and not self.has_begun:
            self.begin()
        self.is_open = False
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            raise verdict

    def leave(self) -> None:
        """Nobody wants the answer any more: cancel the work behind it. A second call changes nothing."""
        self._left = True
        if self.is_open:
            self.is_open = False
            self._payload = b""
            self._caller.watch.remove(self)
            self._give_up_probe()
            self.items.leave()

    # What the watch tells.

    def note_waiting(self, waited_s: float) -> None:
        """The reader waits, and its time is not up."""
        if waited_s >= LIVE_AFTER_S and self._caller.quarantine.out:
            self._caller.note_life(self.instance_id, self._mark)

    def note_unread(self) -> None:
        """Nobody reads now: an instance that was lost is to blame at once, and not when somebody reads of it."""
        failure = self.items.failure
        if isinstance(failure, Disconnected) and not failure.is_remote:
            self._caller.watch.remove(self)  # so that it is not blamed once more
            self._note_failure(failure)

    def stall(self, limit_s: float, *, is_stuck: bool) -> None:
        """The reader has waited for too long, and with `is_stuck` so has everybody else who uses the instance."""
        what = "another item" if self.has_begun else "a first item"
        self._verdict = Stalled(
            f"instance {self.instance_id:x} of {self._caller.endpoint} did not send {what} within {limit_s:g} s",
            instance_id=str(self.instance_id),
            endpoint=str(self._caller.endpoint),
        )
        self._caller.called.stalls[StallPhase.INTER_ITEM if self.has_begun else StallPhase.FIRST_ITEM] += 1
        if is_stuck:
            self._note_fault(Fault.STALLED, self._verdict)
        self.leave()

    # What becomes of the instance.

    def _note_failure(self, error: DynamoError) -> None:
        """Say what an error on the stream means for the instance."""
        if isinstance(error, WorkerUnavailable) and error.is_remote and RELAYED not in error.details:
            self._note_fault(Fault.UNREACHABLE, error)
        elif error.is_remote:  # even if it tells of the loss of another one, it is well
            self._caller.note_answer(self.instance_id, self._mark)
            self._give_up_probe()
        elif isinstance(error, Disconnected):
            self._note_fault(Fault.LOST, error)
        else:
            self._give_up_probe()

    def _note_fault(self, fault: Fault, error: DynamoError) -> None:
        self._caller.note_fault(self.instance, fault, error.message, is_probe=self._is_probe)
        self._is_probe = False

    def _give_up_probe(self) -> None:
        if self._is_probe:
            self._is_probe = False
            self._caller.quarantine.give_up_probe(self.instance_id, self._caller.clock())

    def _named(self, error: DynamoError, what: str) -> DynamoError:
        """Return the error of a connection as one of this instance."""
        details = {**error.details, "instance_id": str(self.instance_id), "endpoint": str(self._caller.endpoint)}
        message = f"instance {self.instance_id:x} of {self._caller.endpoint} {what}: {error.message}"
        return type(error)(message, **details)


class AddressedCall(Call):
    """A request that is another one for each instance: it is made anew each time that it is sent."""

    __slots__ = ("_payload_for",)

    def __init__(
        self,
        caller: Caller,
        payload_for: Callable[[int], bytes],
        context: Context,
        choose: Choose,
        avoid: Container[int] = (),
    ) -> None:
        super().__init__(caller, b"", context, choose, avoid)
        self._payload_for = payload_for

    async def send_to(self, instance: Instance) -> None:
        self._payload = self._payload_for(instance.instance_id)
        await super().send_to(instance)


_REASONS = frozenset(RetryReason)
