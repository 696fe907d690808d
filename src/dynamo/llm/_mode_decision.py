"""Why a request went where it went, where only the number of requests counts (`_routing_modes.py`)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from dynamo._core.prefix_index import WorkerKey
from dynamo._core.stability import beta
from dynamo.llm._kv_router.decision import DECISIONS_MAX, ExcludedWorker, note_worker, worker_name
from dynamo.llm._kv_router.text_table import table


@beta(since="0.1")
class ModeCandidate(msgspec.Struct, frozen=True):
    """A worker that came into question: the requests that it had, and what they count."""

    worker_id: int
    dp_rank: int
    active_requests: int
    load: float
    #: The `worker_id` as people read it: many readers of JSON round numbers as large as that.
    worker: str = ""

    def __post_init__(self) -> None:
        note_worker(self)


@beta(since="0.1")
class ModeDecision(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a request went, and why."""

    request_id: str
    mode: str
    worker_id: int
    dp_rank: int
    #: What has chosen: the mode, the session, or the request itself.
    chosen_by: str
    candidates: list[ModeCandidate]
    excluded: list[ExcludedWorker] = []
    worker: str = ""

    def __post_init__(self) -> None:
        note_worker(self)

    def render(self) -> str:
        """Return the decision as text for a terminal, the least loaded worker first."""
        rows = [
            (
                worker_name(one.worker_id, one.dp_rank),
                str(one.active_requests),
                f"{one.load:.1f}",
                "taken" if (one.worker_id, one.dp_rank) == (self.worker_id, self.dp_rank) else "",
            )
            for one in sorted(self.candidates, key=lambda one: one.load)
        ]
        lines = [
            f"request {self.request_id}: router mode {self.mode}",
            f"  went to {worker_name(self.worker_id, self.dp_rank)}, chosen by {self.chosen_by}",
            "",
            *table(("worker", "requests", "load", ""), rows),
        ]
        lines += [
            f"{worker_name(one.worker_id, one.dp_rank)} did not come into question: {one.why}" for one in self.excluded
        ]
        return "\n".join(lines)


@dataclass(slots=True)
class ModeChoice:
    """The raw material of a decision, which is made only when somebody looks."""

    request_id: str
    mode: str
    key: WorkerKey
    chosen_by: str
    #: The worker, its requests, and what they count.
    candidates: list[tuple[WorkerKey, int, float]]
    excluded: list[tuple[WorkerKey, str]]

    def decision(self) -> ModeDecision:
        return ModeDecision(
            self.request_id,
            self.mode,
            self.key.worker_id,
            self.key.dp_rank,
            self.chosen_by,
            [ModeCandidate(*key, num_requests, load) for key, num_requests, load in self.candidates],
            [ExcludedWorker(*key, why) for key, why in self.excluded],
        )


class ModeDecisions:
    """The most recent choices, by request; a request that moved is known by its last one."""

    def __init__(self) -> None:
        self._recent: OrderedDict[str, ModeChoice] = OrderedDict()

    def add(self, choice: ModeChoice) -> None:
        self._recent[choice.request_id] = choice
        self._recent.move_to_end(choice.request_id)
        if len(self._recent) > DECISIONS_MAX:
            self._recent.popitem(last=False)

    def get(self, request_id: str) -> ModeDecision | None:
        """Return the decision on a request; None if there was none, or too many since."""
        choice = self._recent.get(request_id)
        return None if choice is None else choice.decision()

    def recent(self, limit: int = 20) -> list[ModeDecision]:
        """Return the last decisions, the most recent first."""
        return [choice.decision() for choice, _ in zip(reversed(self._recent.values()), range(limit), strict=False)]
