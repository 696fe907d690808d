"""What a seed stands for: how many processes, which requests, and which faults at what time.

Each seed allows some kinds of faults and no others, so that runs differ in kind and not only in detail.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig, RouterMode

#: Faults happen, and requests are sent, before this time after the start; then everything heals.
FAULTS_UNTIL_S = 20.0

PROMPTS = ("hello world", "the quick brown fox", "def main():", "Ünïcödé 🎉 prompt", "a", "once upon a time there was")
#: What several prompts begin with, so that workers with a cache have something of theirs.
SYSTEM = "You are terse. You answer in English, in whole sentences, and never say what you do not know. "
LONG_PROMPT = 10
MAX_TOKENS = (1, 2, 9, 30, 60)
STOPS = (None, None, None, "e")
PACES_S = (0.005, 0.05, 0.2)

FaultKind = Literal[
    "crash", "vanish", "stop", "end", "cut", "cut one way", "clog", "reset", "loss",
    "lose leases", "cut off discovery", "discovery down", "crash frontend", "bad air", "no air", "stick",
    "restart engine",
]  # fmt: skip
FAULT_KINDS: tuple[FaultKind, ...] = (
    "crash", "vanish", "stop", "end", "cut", "cut one way", "clog", "reset", "loss",
    "lose leases", "cut off discovery", "discovery down", "crash frontend", "bad air", "no air", "stick",
    "restart engine",
)  # fmt: skip
#: What happens to events alone: whoever hears of caches knows the truth soon after the last of them.
EVENT_FAULTS: tuple[FaultKind, ...] = ("bad air", "bad air", "no air", "restart engine", "crash frontend")

#: How frontends find workers by load or by chance. Direct needs requests that name their workers.
OTHER_MODES = tuple(mode for mode in RouterMode if mode not in (RouterMode.KV, RouterMode.Direct))

#: What may cost a request its worker, and what may not.
HARSH: tuple[FaultKind, ...] = ("crash", "vanish", "stop", "cut", "cut one way", "clog", "reset", "restart engine")
GENTLE: tuple[FaultKind, ...] = (
    "end", "end", "end", "lose leases", "cut off discovery", "discovery down", "bad air", "no air"
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """What is asked for; the same ask gets the same answer."""

    prompt: str
    max_tokens: int
    stop: str | None = None
    is_chat: bool = True
    n: int = 1


ROUND_ROBIN = RouterConfig()
#: Longer than anybody waits: who asks for so much leaves before.
LONG = 800
LONG_ASK = Ask("a very long story", LONG)


@dataclass(frozen=True)
class HttpRequest:
    """A request to a frontend."""

    name: str
    at_s: float
    frontend: int
    ask: Ask
    is_stream: bool = True
    #: It goes away then, whether it has its answer or not.
    leave_after_s: float | None = None
    read_pause_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """A request of a caller, straight to a worker."""

    name: str
    at_s: float
    caller: int
    token_ids: tuple[int, ...]
    max_tokens: int
    way: Literal["round_robin", "random"] = "round_robin"
    timeout_s: float | None = None
    leave_after_s: float | None = None
    #: How the caller leaves: it asks for a soft end, it kills the request, or its task is cancelled.
    leave_by: Literal["stop", "kill", "cancel"] = "cancel"


@dataclass(frozen=True)
class BulkCall:
    """A request of a caller for a large answer."""

    name: str
    at_s: float
    caller: int
    num_items: int
    read_pause_s: float


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, for a while. `one` and `other` choose hosts, modulo those that there are."""

    kind: FaultKind
    at_s: float
    for_s: float
    one: int = 0
    other: int = 0
    amount: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """One run."""

    seed: int
    num_workers: int
    num_frontends: int
    num_callers: int
    pace_s: float
    request_timeout_s: float
    #: How long a worker that ends lets its requests go on.
    drain_s: float = 30.0
    #: Whether the first worker is spared, and no request meets more than one death: then all of them are answered.
    is_sheltered: bool = False
    http_requests: tuple[HttpRequest, ...] = ()
    calls: tuple[Call, ...] = ()
    bulk_calls: tuple[BulkCall, ...] = ()
    #: Whether callers wait for an item for seconds only.
    is_impatient: bool = False
    #: How the frontends find the workers of a request.
    router: RouterConfig = ROUND_ROBIN
    #: Whether workers have a cache, of which they tell.
    has_cache: bool = False
    faults: tuple[Fault, ...] = ()

    @property
    def has_replica_sync(self) -> bool:
        return self.router.config is not None and self.router.config.router_replica_sync

    @property
    def has_event_faults_only(self) -> bool:
        return all(fault.kind in EVENT_FAULTS for fault in self.faults)


def scenario_of(seed: int) -> Scenario:
    """Return the scenario of a seed. It never changes for a seed while this module does not."""
    rng = random.Random(f"scenario {seed}")
    num_frontends, num_callers = rng.choice([(1, 0), (1, 1), (2, 1), (0, 2)])
    http_requests = [_http(rng, i, num_frontends) for i in range(rng.randint(3, 40))] if num_frontends else []
    router = _kv_router(seed) if seed % 2 else RouterConfig(OTHER_MODES[seed // 2 % len(OTHER_MODES)])
    has_cache = router.config is not None and router.config.use_kv_events
    calls = [_call(rng, i, num_callers) for i in range(rng.randint(3, 30))] if num_callers else []
    if has_cache:  # which are to be full now and then
        calls = [replace(call, token_ids=call.token_ids * LONG_PROMPT) for call in calls]
    is_sheltered = num_frontends > 0 and rng.random() < 0.3
    faults = _sheltered_faults(rng) if is_sheltered else _faults(rng)
    if has_cache and not is_sheltered and seed % 4 == 1:
        faults = [_fault(rng, EVENT_FAULTS) for _ in range(rng.randint(1, 8))]
    num_bulk_calls = rng.randint(1, 6) if num_callers and rng.random() < 0.4 else 0
    return Scenario(
        seed=seed,
        bulk_calls=tuple(_bulk_call(rng, i, num_callers) for i in range(num_bulk_calls)),
        is_impatient=rng.random() < 0.5,
        num_workers=rng.randint(2 if is_sheltered else 1, 5),
        num_frontends=num_frontends,
        num_callers=num_callers,
        pace_s=rng.choice(PACES_S[1:] if is_sheltered else PACES_S),
        request_timeout_s=60.0 if is_sheltered else rng.choice([8.0, 60.0]),
        drain_s=rng.choice([0.0, 2.0, 30.0]),
        is_sheltered=is_sheltered,
        http_requests=tuple(http_requests),
        calls=tuple(calls),
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        router=router,
        has_cache=has_cache,
    )


def _kv_router(seed: int) -> RouterConfig:
    rng = random.Random(f"router {seed}")
    return RouterConfig(
        RouterMode.KV,
        KvRouterConfig(
            use_kv_events=rng.random() < 0.8,
            router_temperature=rng.choice([0.0, 0.0, 0.5]),
            router_replica_sync=rng.random() < 0.4,
            router_track_output_blocks=rng.random() < 0.5,
            queue_threshold=rng.choice([None, None, 1.0]),
        ),
    )


def _faults(rng: random.Random) -> list[Fault]:
    kinds = rng.sample(FAULT_KINDS, rng.randint(1, 6))
    return [_fault(rng, kinds) for _ in range(rng.randint(0, 20))]


def _sheltered_faults(rng: random.Random) -> list[Fault]:
    """One fault that may cost a request its worker, and any number of those that may not."""
    faults = [_fault(rng, GENTLE) for _ in range(rng.randint(0, 8))]
    return [*faults, _fault(rng, HARSH)]


def _ask(rng: random.Random) -> Ask:
    return Ask(
        prompt=rng.choice(("", "", SYSTEM, SYSTEM * LONG_PROMPT)) + rng.choice(PROMPTS),
        max_tokens=rng.choice(MAX_TOKENS),
        stop=rng.choice(STOPS),
        is_chat=rng.random() < 0.7,
        n=2 if rng.random() < 0.15 else 1,
    )


def _http(rng: random.Random, number: int, num_frontends: int) -> HttpRequest:
    leave_after_s = rng.expovariate(0.5) if rng.random() < 0.2 else None
    ask = _ask(rng)
    if leave_after_s is not None and rng.random() < 0.5:
        ask = LONG_ASK
    return HttpRequest(
        name=f"http-{number}",
        at_s=rng.uniform(0.0, FAULTS_UNTIL_S),
        frontend=rng.randrange(num_frontends),
        ask=ask,
        is_stream=rng.random() < 0.8,
        leave_after_s=leave_after_s,
        read_pause_s=rng.uniform(0.0, 0.5) if rng.random() < 0.1 else 0.0,
    )


def _call(rng: random.Random, number: int, num_callers: int) -> Call:
    timeout_s = rng.uniform(0.1, 15.0) if rng.random() < 0.3 else None
    leave_after_s = rng.expovariate(0.5) if rng.random() < 0.3 else None
    is_limited = timeout_s is not None or leave_after_s is not None
    return Call(
        name=f"call-{number}",
        at_s=rng.uniform(0.0, FAULTS_UNTIL_S),
        caller=rng.randrange(num_callers),
        token_ids=tuple(rng.randrange(10, 2000) for _ in range(rng.randint(1, 20))),
        max_tokens=LONG if is_limited and rng.random() < 0.5 else rng.choice(MAX_TOKENS),
        way=rng.choice(["round_robin", "random"]),
        timeout_s=timeout_s,
        leave_after_s=leave_after_s,
        leave_by=rng.choice(["stop", "kill", "cancel"]),
    )


def _bulk_call(rng: random.Random, number: int, num_callers: int) -> BulkCall:
    return BulkCall(
        name=f"bulk-{number}",
        at_s=rng.uniform(0.0, FAULTS_UNTIL_S),
        caller=rng.randrange(num_callers),
        num_items=rng.randint(1, 60),
        read_pause_s=rng.choice([0.0, 0.01, 0.5]),
    )


def _fault(rng: random.Random, kinds: Sequence[FaultKind]) -> Fault:
    return Fault(
        kind=rng.choice(kinds),
        at_s=rng.uniform(0.0, FAULTS_UNTIL_S),
        for_s=rng.choice([rng.uniform(0.01, 1.0), rng.uniform(1.0, 5.0), rng.uniform(5.0, 20.0)]),
        one=rng.randrange(100),
        other=rng.randrange(100),
        amount=rng.random(),
    )
