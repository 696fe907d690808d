"""Sees when the KV router works and does not help: prompts repeat, and no worker ever has any of their blocks.

Everything looks well then, and every prompt is computed again: the worst kind of wrong setting. So it is said, once a
minute, for as long as it is so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from dynamo.llm._kv_counted_index import KvIndexStats
from dynamo.llm._kv_router.stats import RouterStats
from dynamo.llm._routing import Router

logger = logging.getLogger(__name__)

#: How often it is looked.
LOOK_S = 60.0
#: Fewer prompts than this, of those that began as earlier ones, say nothing.
REPEATS_MIN = 10


@runtime_checkable
class CountingRouter(Protocol):
    """A router that counts what it does, as the KV router does."""

    @property
    def stats(self) -> RouterStats:
        """What was counted since it was made."""

    def queue_lengths(self) -> dict[str, int]:
        """How many requests wait for room, by policy class; empty if none ever does."""

    def index_stats(self) -> KvIndexStats | None:
        """How large the index is that is made of events, and how that goes; None if there is none."""

    def num_sent_blocks(self) -> int | None:
        """How many blocks count as cached because they were sent somewhere; None if that is not remembered."""


class ZeroHits:
    """What was seen of the routers of several models; told of them by `look`."""

    def __init__(self) -> None:
        #: What is wrong now, a sentence for each model.
        self.warnings: list[str] = []
        # Repeated prompts, and those without a hit, as of the last look; of which router.
        self._seen: dict[str, tuple[RouterStats, int, int]] = {}

    def look(self, routers: Mapping[str, Router]) -> None:
        """See what has happened since the last look, and log what is wrong."""
        counted = {model: router.stats for model, router in routers.items() if isinstance(router, CountingRouter)}
        self.warnings = [warning for model, stats in counted.items() if (warning := self._look_at(model, stats))]
        self._seen = {model: _now(stats) for model, stats in counted.items()}
        for warning in self.warnings:
            logger.warning(warning)

    def _look_at(self, model: str, stats: RouterStats) -> str | None:
        of, repeats, misses = self._seen.get(model, (stats, 0, 0))
        if of is not stats:
            repeats = misses = 0
        repeats, misses = stats.repeated_prompts - repeats, stats.repeated_prompts_without_hit - misses
        return warning_of(model, repeats, misses, since=f"lately, within {LOOK_S:.0f} s")


def warning_of(model: str, repeats: int, misses: int, *, since: str) -> str | None:
    """Say what is wrong if so many prompts began as earlier ones, and for so many nothing was found; None if nothing.

    `since` says over which time: some seconds, or all the time that a router has had.
    """
    if repeats < REPEATS_MIN or misses < repeats:
        return None
    return (
        f"the KV router finds nothing for the model {model!r}: {since}, {repeats} prompts began as earlier ones did, "
        "and no worker had a block of them. Do the workers keep a prefix cache and publish its events, with the block "
        "size of their model cards? If they publish none, set --no-router-use-kv-events"
    )


def _now(stats: RouterStats) -> tuple[RouterStats, int, int]:
    return stats, stats.repeated_prompts, stats.repeated_prompts_without_hit
