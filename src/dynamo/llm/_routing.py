"""Routers as the pipeline sees them: what they are told of a request, and what they give for it.

A `Router` knows the workers of one model. It is asked once for each time that a request is sent, and gives a `Route`:
the request's booking, which says where it goes and hears how it fares. Who holds a route closes it, however the
request ends, so that no load stays booked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from dynamo._core.context import Context
from dynamo._core.errors import NoWorkerFits as NoWorkerFits
from dynamo.llm._messages import EngineOutput, PreprocessedRequest
from dynamo.llm._wishes import NO_CONSTRAINTS as NO_CONSTRAINTS
from dynamo.llm._wishes import RouterConfigOverride as RouterConfigOverride
from dynamo.llm._wishes import RoutingConstraints as RoutingConstraints
from dynamo.llm._wishes import Wishes


@dataclass(slots=True, kw_only=True)
class Asked:
    """What a router is told of one request, each time that it is sent."""

    #: The `PreprocessedRequest`, or for workers that take text, the body.
    request: object
    context: Context
    #: The prompt, and behind it what was generated before the request moved; None: unknown to the router.
    token_ids: Sequence[int] | None = None
    #: What changes what is cached: see `block_hashes`.
    lora_name: str | None = None
    cache_namespace: str | None = None
    mm_hashes: Sequence[Sequence[int]] | None = None
    constraints: RoutingConstraints = NO_CONSTRAINTS
    override: RouterConfigOverride | None = None
    #: Requests of one session go to one worker, if the router is set up so.
    session_id: str | None = None
    #: So many seconds earlier it counts as having come, where requests wait.
    priority_jump: float = 0.0
    #: Where requests wait, those of a higher one go first.
    strict_priority: int = 0
    policy_class: str | None = None
    #: The caller has named the worker, or the rank, that is to take it.
    pinned_instance: int | None = None
    pinned_dp_rank: int | None = None
    #: Instances that have lost this request.
    avoid: Collection[int] = field(default_factory=frozenset)

    @classmethod
    def wishing(
        cls,
        wishes: Wishes,
        *,
        request: object,
        context: Context,
        token_ids: Sequence[int] | None,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
        override: RouterConfigOverride | None = None,
        dp_rank: int | None = None,
        avoid: Collection[int] = frozenset(),
    ) -> Self:
        """Return what a router is told of a request with these wishes; `dp_rank` counts if they name none."""
        return cls(
            request=request, context=context, token_ids=token_ids, lora_name=lora_name,
            cache_namespace=cache_namespace, constraints=wishes.routing_constraints, override=override,
            session_id=wishes.session_id, priority_jump=wishes.priority, strict_priority=wishes.strict_priority,
            policy_class=wishes.policy_class, pinned_instance=wishes.backend_instance_id,
            pinned_dp_rank=dp_rank if wishes.dp_rank is None else wishes.dp_rank, avoid=avoid,
        )  # fmt: skip


class Explanation:
    """Why one request went where it went, each of its choices, and each time that it moved; for whoever asked."""

    __slots__ = ("decisions",)

    def __init__(self) -> None:
        #: Msgspec structs, in the order in which workers answered.
        self.decisions: list[object] = []

    def take(self) -> list[object]:
        """Return what has come since the last call."""
        taken, self.decisions = self.decisions, []
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingHints:
    """What a request itself says of where it is to go; the fields are those of `Asked`."""

    constraints: RoutingConstraints = NO_CONSTRAINTS
    override: RouterConfigOverride | None = None
    session_id: str | None = None
    priority_jump: float = 0.0
    strict_priority: int = 0
    policy_class: str | None = None
    pinned_instance: int | None = None
    pinned_dp_rank: int | None = None
    #: Whoever asked why it goes where it goes is told here.
    explanation: Explanation | None = None

    @property
    def need_route(self) -> bool:
        """Whether something here must be heeded, or be refused, however workers are chosen."""
        return self is not NO_HINTS and (
            self.pinned_instance is not None
            or self.pinned_dp_rank is not None
            or self.override is not None
            or self.explanation is not None
            or bool(self.constraints.required_taints)
        )

    @property
    def wishes(self) -> Wishes:
        """The same as a router in another process is told it; how its configuration is overridden stands beside."""
        return Wishes(
            backend_instance_id=self.pinned_instance, dp_rank=self.pinned_dp_rank, priority=self.priority_jump,
            strict_priority=self.strict_priority, policy_class=self.policy_class, session_id=self.session_id,
            routing_constraints=self.constraints,
        )  # fmt: skip

    def asked(
        self, request: object, context: Context, token_ids: Sequence[int] | None, avoid: Collection[int]
    ) -> Asked:
        """Return what a router is told of a request with these hints."""
        asked = Asked.wishing(
            self.wishes, request=request, context=context, token_ids=token_ids, override=self.override, avoid=avoid
        )
        if isinstance(request, PreprocessedRequest):
            asked.lora_name, asked.cache_namespace = request.lora_name, request.cache_salt
        return asked


NO_HINTS = RoutingHints()


class Route(Protocol):
    """Where one request goes, and what it costs there until it is closed."""

    @property
    def dp_rank(self) -> int | None:
        """The data parallel rank that is to take it, once `choose` was called; None: any."""

    @property
    def decision(self) -> object | None:
        """Why it goes there, for those who ask; a msgspec struct, or None if nothing was weighed."""

    def choose(self, ids: list[int]) -> int:
        """Return one of the instances that come into question now, and book the request there.

        Called once more if that one does not take the request: it is then booked anew, with what is left.
        Raises `NoInstances` if the request's constraints leave none.
        """

    def note_answer(self) -> None:
        """The first output is there: the prompt is computed. Another call changes nothing."""

    def note_tokens(self, num_tokens: int) -> None:
        """So many tokens were generated since the last call."""

    def note_cached(self, num_tokens: int) -> None:
        """The worker says how many tokens of the prompt it had cached. Another call changes nothing."""

    def close(self) -> None:
        """The request has ended, however. A second call changes nothing."""


def note_outputs(route: Route, outputs: Sequence[EngineOutput]) -> None:
    """Tell a route what its worker has generated, and whether it says what it had cached."""
    route.note_tokens(sum(len(output.token_ids) for output in outputs))
    # The first output of a stream may say it, and the last one does.
    for output in (outputs[0], outputs[-1]):
        if output.completion_usage is not None and (details := output.completion_usage.prompt_tokens_details):
            route.note_cached(details.cached_tokens)


class RecentDecisions(Protocol):
    """Why the last requests went where they went, as many of them as are kept; each is a msgspec struct."""

    def get(self, request_id: str) -> object | None:
        """Return the decision on a request; None if it is not known, or not any more."""

    def recent(self, limit: int) -> Sequence[object]:
        """Return the last decisions, the most recent first."""


class Router(Protocol):
    """Chooses workers for the requests to one model."""

    @property
    def decisions(self) -> RecentDecisions:
        """The most recent decisions."""

    async def place(self, asked: Asked) -> Route:
        """Return the route of a request; it may wait for room first, no longer than the request's deadline."""

    async def close(self) -> None:
        """Stop following the workers. Routes that are open stay usable."""


class RoutedWorkers(Protocol):
    """The workers of one model, as a router follows them."""

    def instance_ids(self) -> list[int]:
        """Those that are alive, in ascending order."""

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        """What the worker's model card says of it; empty if nothing."""
