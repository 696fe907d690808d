"""Why a request went where it went, for people who ask.

A router keeps what it has weighed as it is, in columns; a `Decision` is made of it only when somebody looks.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo._core.prefix_index import WorkerKey
from dynamo._core.stability import beta
from dynamo.llm._kv_router.cost import Terms, Weights
from dynamo.llm._kv_router.load import Load
from dynamo.llm._kv_router.reasons import cost_formula, why_it_lost
from dynamo.llm._kv_router.text_table import table
from dynamo.llm._numbers import shown

DECISIONS_MAX = 512


class ChosenBy(enum.StrEnum):
    """What made the choice."""

    COST = "cost"
    TEMPERATURE = "temperature"
    POLICY = "policy"
    SESSION = "session"
    PINNED = "pinned"


def worker_name(worker_id: int, dp_rank: int = 0) -> str:
    """Return what people are shown for a worker: its id in hexadecimal digits, as logs, metrics and `/health` do."""
    return f"{worker_id:x}" + (f", rank {dp_rank}" if dp_rank else "")


class _OfWorker(Protocol):
    @property
    def worker_id(self) -> int: ...


def note_worker(told: _OfWorker) -> None:
    """Set the field `worker` of a struct by its `worker_id`."""
    msgspec.structs.force_setattr(told, "worker", worker_name(told.worker_id))  # type: ignore[arg-type]  # a struct


@beta(since="0.1")
class CandidateTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker that came into question: what it had, what the request would have cost there, and why it lost."""

    worker_id: int
    dp_rank: int
    overlap_blocks: int
    active_prefill_tokens: int
    prefill_blocks: float
    decode_blocks: int
    active_requests: int
    cost: float
    #: By what the cost was multiplied, because of what the request prefers.
    taint_factor: float = 1.0
    why_it_lost: str | None = None
    #: The `worker_id` as people read it: many readers of JSON round numbers as large as that.
    worker: str = ""

    def __post_init__(self) -> None:
        note_worker(self)


@beta(since="0.1")
class ExcludedWorker(msgspec.Struct, frozen=True):
    """A worker that did not come into question, and why."""

    worker_id: int
    dp_rank: int
    why: str
    worker: str = ""

    def __post_init__(self) -> None:
        note_worker(self)


@beta(since="0.1")
class RoundRobinChoice(msgspec.Struct, frozen=True):
    """Where the request would have gone without a KV router."""

    worker_id: int
    overlap_blocks: int
    cached_tokens: int
    worker: str = ""

    def __post_init__(self) -> None:
        note_worker(self)


@beta(since="0.1", constructor=False)
class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a request went, and why."""

    request_id: str
    #: Of the prompt; its blocks include one that is not full.
    num_tokens: int
    num_blocks: int
    #: Tokens in a block.
    block_size: int
    #: Where it went.
    worker_id: int
    dp_rank: int
    chosen_by: ChosenBy
    #: How many tokens of the prompt its engine should report as cached.
    predicted_cached_tokens: int
    candidates: list[CandidateTerms]
    #: For how many seconds the request waited for room.
    queue_s: float = 0.0
    #: Where it would have gone in turn, if that is known.
    round_robin: RoundRobinChoice | None = None
    #: Workers that did not come into question.
    excluded: list[ExcludedWorker] = []
    #: The `worker_id` and rank as people read it.
    worker: str = ""
    #: How the costs come of the other terms; empty for those that a policy has given.
    cost_formula: str = ""

    def __post_init__(self) -> None:
        note_worker(self)

    def to_json(self) -> bytes:
        """Return it as a JSON object, without the fields that are as by default."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Decision:
        """Read what `to_json` wrote. Raises `InvalidArgument` for what is none."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidArgument(f"data is {shown(data)}, which is no Decision: {error}") from error

    def render(self) -> str:
        """Return the decision as text for a terminal, the cheapest worker first."""
        lines = [
            f"request {self.request_id}: {self.num_tokens} tokens, {self.num_blocks} blocks of {self.block_size}",
            f"  went to {worker_name(self.worker_id, self.dp_rank)}, chosen by {self.chosen_by}; "
            f"{self.predicted_cached_tokens} tokens expected in its cache; waited {self.queue_s * 1000:.1f} ms",
        ]
        if self.round_robin is not None:
            other = self.round_robin
            lines.append(
                f"  round robin: {worker_name(other.worker_id)}, with {other.cached_tokens} tokens in its cache"
            )
        rows = [_row(one) for one in sorted(self.candidates, key=lambda one: (one.why_it_lost is not None, one.cost))]
        lines += ["", *table(_HEADINGS, rows)]
        if self.cost_formula:
            lines.append(f"cost: {self.cost_formula}")
        lines += [
            f"{worker_name(one.worker_id, one.dp_rank)} did not come into question: {one.why}" for one in self.excluded
        ]
        return "\n".join(lines)


@dataclass(slots=True)
class Weighed:
    """What was weighed for one request: the raw material of a `Decision`."""

    request_id: str
    num_tokens: int
    num_blocks: int
    block_size: int
    loads: list[Load]
    terms: Terms
    position: int
    chosen_by: ChosenBy
    round_robin: int | None
    weights: Weights
    excluded: list[tuple[WorkerKey, str]] = field(default_factory=list)
    queue_s: float = 0.0

    @property
    def load(self) -> Load:
        """Of the worker that was taken."""
        return self.loads[self.position]

    @property
    def overlap_blocks(self) -> int:
        """How many blocks the worker that was taken has cached."""
        return self.terms.overlap_blocks[self.position]

    def decision(self) -> Decision:
        """Return it as people read it."""
        key = self.load.key
        return Decision(
            self.request_id,
            self.num_tokens,
            self.num_blocks,
            self.block_size,
            key.worker_id,
            key.dp_rank,
            self.chosen_by,
            self.overlap_blocks * self.block_size,
            list(self._candidates()),
            self.queue_s,
            self._round_robin(),
            [ExcludedWorker(key.worker_id, key.dp_rank, why) for key, why in self.excluded],
            cost_formula=self._cost_formula(),
        )

    def _cost_formula(self) -> str:
        if self.chosen_by is ChosenBy.POLICY:
            return ""
        terms = self.terms
        return cost_formula(self.weights, is_cached=any(terms.overlap_blocks), is_preferred=bool(terms.factors))

    def _candidates(self) -> Iterator[CandidateTerms]:
        terms = self.terms
        for position, load in enumerate(self.loads):
            yield CandidateTerms(
                load.key.worker_id,
                load.key.dp_rank,
                terms.overlap_blocks[position],
                terms.active_prefill_tokens[position],
                terms.prefill_blocks[position],
                terms.decode_blocks[position],
                terms.num_requests[position],
                terms.costs[position],
                terms.factors[position] if terms.factors else 1.0,
                None if position == self.position else self._why_it_lost(position),
            )

    def _why_it_lost(self, position: int) -> str:
        if self.chosen_by is ChosenBy.SESSION:
            return "the session of the request belongs to another worker"
        if self.chosen_by is ChosenBy.PINNED:
            return "the request names another worker"
        return why_it_lost(
            self.terms, position, self.position,
            num_blocks=self.num_blocks, block_size=self.block_size,
            weights=self.weights, by_cost=self.chosen_by is ChosenBy.COST,
        )  # fmt: skip

    def _round_robin(self) -> RoundRobinChoice | None:
        if self.round_robin is None:
            return None
        overlap = max(
            (
                blocks
                for load, blocks in zip(self.loads, self.terms.overlap_blocks, strict=True)
                if load.key.worker_id == self.round_robin
            ),
            default=0,
        )
        return RoundRobinChoice(self.round_robin, overlap, overlap * self.block_size)


class Decisions:
    """The most recent decisions, by request; a request that moved is known by its last one."""

    def __init__(self, size_max: int = DECISIONS_MAX) -> None:
        self._size_max = size_max
        self._recent: OrderedDict[str, Weighed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, weighed: Weighed) -> None:
        """Keep one more; the oldest goes when there are too many."""
        recent = self._recent
        recent[weighed.request_id] = weighed
        recent.move_to_end(weighed.request_id)
        if len(recent) > self._size_max:
            recent.popitem(last=False)

    def get(self, request_id: str) -> Decision | None:
        """Return the decision on a request; None if there was none, or too many since."""
        weighed = self._recent.get(request_id)
        return None if weighed is None else weighed.decision()

    def recent(self, limit: int = 20) -> list[Decision]:
        """Return the last decisions, the most recent first."""
        newest = reversed(self._recent.values())
        return [weighed.decision() for weighed, _ in zip(newest, range(limit), strict=False)]


_HEADINGS = ("worker", "cached", "to compute", "to hold", "requests", "cost", "")


def _row(one: CandidateTerms) -> tuple[str, ...]:
    return (
        worker_name(one.worker_id, one.dp_rank),
        str(one.overlap_blocks),
        f"{one.prefill_blocks:.1f}",
        str(one.decode_blocks),
        str(one.active_requests),
        f"{one.cost:.1f}" + (f" (times {one.taint_factor:.2f})" if one.taint_factor != 1.0 else ""),
        "taken" if one.why_it_lost is None else one.why_it_lost,
    )
