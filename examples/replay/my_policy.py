"""A routing policy of your own: equal beginnings go together, unless somebody has twice as many requests."""

from __future__ import annotations

from dynamo.llm import Candidate


def cached_but_not_crowded(candidates: list[Candidate]) -> Candidate:
    """Return the worker with most of the prompt in its cache, of those that are not crowded."""
    fewest = min(candidate.active_requests for candidate in candidates)
    free = [candidate for candidate in candidates if candidate.active_requests <= 2 * fewest + 2]
    return max(free, key=lambda candidate: (candidate.overlap_blocks, -candidate.active_requests))
