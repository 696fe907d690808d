"""Requests that take workers down: how many may be lost to one, and what becomes of it.

A worker that dies while it answers may have died of what it was asked. So the second worker that one request
loses is its last: it fails, and for `BLOCKED_S` whatever asks for the same is refused before it reaches a
worker. What is the same is the prompt and how to answer it, whoever asks and wherever it is to go; the seed does
not count. A request that only had bad luck is refused with it: that is the price of never giving it a third
worker. The choices of one request count together, and wait for each other as requests that ask for the same do.

Many may ask for the same at once, and each could take two workers with it before anything is known. So of those
one goes ahead, and the others wait until it has something of its answer, or is refused, or for `AHEAD_S`. Then
all of them are answered, or refused, and what was answered once waits no more: until a worker is lost with it.
So what a request asks for is found out before it is sent, also while no worker was ever lost: of 131,072 tokens
in about 1 ms, of a text of 9 MB in 20 to 60 ms, as long as it takes to read it.

Only those with the same salt wait for each other: how long it takes must not tell what other tenants ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable

import msgspec

from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.llm._messages import PreprocessedRequest

#: So many workers may be lost while they answer one request.
DEATHS_MAX = 2
BLOCKED_S = 60.0
#: So many are remembered; of more, the newest.
BLOCKED_MAX = 1024
#: Who asks for the same as one that goes ahead waits for so long: a process that dies is missed sooner, and who
#: waits for a long prompt or a stuck worker must not make everybody wait.
AHEAD_S = 3.0
#: So many are remembered to have been answered; of more, the newest.
ANSWERED_MAX = 4096

#: Of a body as it was sent: what differs between those who ask for the same.
_OF_WHO_ASKS = frozenset(("seed", "user", "safety_identifier", "prompt_cache_key", "metadata", "cache_salt"))
#: The same of its `nvext`: who asks, and where it is to go.
OF_WHO_ASKS_IN_NVEXT = frozenset(
    (
        "agent_hints",
        "backend_instance_id",
        "cache_salt",
        "dp_rank",
        "explain",
        "router_config_override",
        "routing_constraints",
    )
)


class PoisonedRequest(DynamoError):
    """Workers were lost while they answered this request, and no other is given it."""

    code = "poisoned_request"


class PoisonList:
    """What is known of requests by what they ask for: which are refused, which go ahead, which were answered."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By fingerprint, in the order in which they end.
        self._blocked_until: dict[bytes, float] = {}
        #: Of which one goes ahead; done when it does so no more.
        self.ahead: dict[bytes, asyncio.Future[None]] = {}
        # In the order in which they were answered first.
        self._answered: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._blocked_until)

    def block(self, fingerprint: bytes) -> None:
        """Refuse this request for a while."""
        self._blocked_until.pop(fingerprint, None)
        self._blocked_until[fingerprint] = self._clock() + BLOCKED_S
        if len(self._blocked_until) > BLOCKED_MAX:
            del self._blocked_until[next(iter(self._blocked_until))]

    def blocked_for_s(self, fingerprint: bytes) -> float:
        """For how long it is still refused; 0 if it is not."""
        now = self._clock()
        while self._blocked_until and next(iter(self._blocked_until.values())) <= now:
            del self._blocked_until[next(iter(self._blocked_until))]
        return max(0.0, self._blocked_until.get(fingerprint, now) - now)

    def is_answered(self, fingerprint: bytes) -> bool:
        """Whether a worker has answered this, and none was lost with it since."""
        return fingerprint in self._answered

    def note_answer(self, fingerprint: bytes) -> None:
        """A worker has answered this, and lives."""
        self._answered[fingerprint] = None
        if len(self._answered) > ANSWERED_MAX:
            del self._answered[next(iter(self._answered))]

    def doubt(self, fingerprint: bytes) -> None:
        """A worker was lost with it: that it was answered before says nothing now."""
        self._answered.pop(fingerprint, None)


class Suspect:
    """One request, and which workers were lost while they answered it, all of its choices together."""

    __slots__ = ("_fingerprint", "_list", "_lost", "_request", "_tenant_fingerprint", "_turn")

    def __init__(self, poisoned: PoisonList, request: object) -> None:
        self._list = poisoned
        self._request = request
        # In order; several choices may have lost the same one.
        self._lost: dict[str, None] = {}
        self._fingerprint = self._tenant_fingerprint = b""
        # Set while this request goes ahead.
        self._turn: asyncio.Future[None] | None = None

    @property
    def fingerprint(self) -> bytes:
        """What it asks for, whoever does. Found out once: it takes the longer, the longer the prompt."""
        if not self._fingerprint:
            self._fingerprint = fingerprint(self._request)
        return self._fingerprint

    @property
    def tenant_fingerprint(self) -> bytes:
        """What it asks for, and for which tenant."""
        if not self._tenant_fingerprint:
            self._tenant_fingerprint = _of_tenant(self.fingerprint, _salt_of(self._request))
        return self._tenant_fingerprint

    def of_choice(self) -> Suspect:
        """Return what is known against one of its choices: all their losses count, and each waits for its turn."""
        choice = Suspect(self._list, self._request)
        choice._lost = self._lost
        choice._fingerprint, choice._tenant_fingerprint = self.fingerprint, self.tenant_fingerprint
        return choice

    def check(self) -> None:
        """Raise `PoisonedRequest` if this request is refused."""
        if len(self._list) and (left_s := self._list.blocked_for_s(self.fingerprint)):
            raise PoisonedRequest(
                f"workers were lost while they answered this very request; it is refused for {math.ceil(left_s)} s more"
            )

    def may_go(self) -> bool:
        """Whether it may be sent now; if so and nobody else does, it goes ahead. Raises `PoisonedRequest`."""
        self.check()
        if self._list.is_answered(self.tenant_fingerprint):
            return True
        if (ahead := self._list.ahead.get(self.tenant_fingerprint)) is not None:
            return ahead is self._turn
        self._turn = self._list.ahead[self.tenant_fingerprint] = asyncio.get_running_loop().create_future()
        return True

    async def wait_for_turn(self) -> None:
        """Return when it may be sent, or has waited for long enough. Raises `PoisonedRequest`."""
        now = asyncio.get_running_loop().time
        until = now() + AHEAD_S
        while not self.may_go() and (left_s := until - now()) > 0:
            await asyncio.wait([self._list.ahead[self.tenant_fingerprint]], timeout=left_s)

    def note_answer(self) -> None:
        """A worker that it was sent to has answered: whoever asks for the same need not wait."""
        if self._tenant_fingerprint:
            self._list.note_answer(self._tenant_fingerprint)
            # Those who wait do so for whoever goes ahead, even if that is another one.
            if (turn := self._list.ahead.pop(self._tenant_fingerprint, None)) is not None:
                turn.set_result(None)
        self._turn = None

    def leave(self) -> None:
        """It has ended, or nobody wants it any more: the next one goes ahead."""
        turn, self._turn = self._turn, None
        if turn is not None and self._list.ahead.get(self.tenant_fingerprint) is turn:
            del self._list.ahead[self.tenant_fingerprint]
            turn.set_result(None)

    def note_death(self, instance: str, error: DynamoError) -> None:
        """A worker was lost while it answered. Raises `PoisonedRequest` if no other may be."""
        self._lost[instance] = None
        self._list.doubt(self.tenant_fingerprint)
        if len(self._lost) >= DEATHS_MAX:
            self._list.block(self.fingerprint)
            raise PoisonedRequest(
                f"{len(self._lost)} workers were lost while they answered this request "
                f"(instances {', '.join(self._lost)}): it is given to no other, and refused for {BLOCKED_S:g} s"
            ) from error


def fingerprint(request: object) -> bytes:
    """Return what is the same for requests that ask for the same. Raises `InvalidArgument` for what cannot be sent."""
    if isinstance(request, PreprocessedRequest):
        sampling = msgspec.structs.replace(request.sampling_options, seed=None)
        request = msgspec.structs.replace(
            request,
            sampling_options=sampling,
            cache_salt=None,
            dp_rank=None,
            routing=None,
            router_config_override=None,
        )
    elif isinstance(request, dict):
        request = _without(request, _OF_WHO_ASKS)
        if isinstance(nvext := request.pop("nvext", None), dict) and (left := _without(nvext, OF_WHO_ASKS_IN_NVEXT)):
            request["nvext"] = left
    try:
        words = msgspec.msgpack.encode(request, order="sorted")
    except (OverflowError, RecursionError, UnicodeError) as error:
        raise InvalidArgument(f"the request cannot be sent: {error}") from error
    return hashlib.blake2b(words, digest_size=16).digest()


def _without(fields: dict[str, object], names: frozenset[str]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if name not in names}


def _salt_of(request: object) -> str | None:
    """The salt of a request, or of a body as it was sent; see `OpenAIRequest.body`."""
    if isinstance(request, PreprocessedRequest):
        return request.cache_salt
    salt = request.get("cache_salt") if isinstance(request, dict) else None
    return salt if isinstance(salt, str) else None


def _of_tenant(fingerprint: bytes, salt: str | None) -> bytes:
    return fingerprint if not salt else hashlib.blake2b(fingerprint + salt.encode(), digest_size=16).digest()
