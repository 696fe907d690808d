"""Sees when the KV router works and does not help.

Prompts repeat, and no worker ever has any of their blocks; or the router expects them to be cached, and the workers say
that they find nothing. Everything looks well then, and every prompt is computed again: the worst kind of wrong setting.
So it is said, once a minute, for as long as it is so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple, Protocol, Self, runtime_checkable

from dynamo.llm._kv_counted_index import KvIndexStats
from dynamo.llm._kv_router.stats import RouterStats
from dynamo.llm._routing import Router

logger = logging.getLogger(__name__)

#: How often it is looked.
LOOK_S = 60.0
#: Fewer prompts than this say nothing.
REPEATS_MIN = 10


class Hits(NamedTuple):
    """What a router has counted of hits; see `RouterStats`."""

    repeated_prompts: int = 0
    repeated_prompts_without_hit: int = 0
    expected_hits: int = 0
    expected_hits_missed: int = 0

    @classmethod
    def of(cls, stats: RouterStats) -> Self:
        """Return what a router has counted until now."""
        return cls._make(getattr(stats, name) for name in cls._fields)

    def since(self, before: Hits) -> Hits:
        """Return what has come since then."""
        return Hits._make(now - earlier for now, earlier in zip(self, before, strict=True))


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
        # What there was at the last look, and of which router.
        self._seen: dict[str, tuple[RouterStats, Hits]] = {}

    def look(self, routers: Mapping[str, Router]) -> None:
        """See what has happened since the last look, and log what is wrong."""
        counted = {model: router.stats for model, router in routers.items() if isinstance(router, CountingRouter)}
        self.warnings = [warning for model, stats in counted.items() if (warning := self._look_at(model, stats))]
        self._seen = {model: (stats, Hits.of(stats)) for model, stats in counted.items()}
        for warning in self.warnings:
            logger.warning(warning)

    def _look_at(self, model: str, stats: RouterStats) -> str | None:
        of, before = self._seen.get(model, (stats, Hits()))
        hits = Hits.of(stats).since(before if of is stats else Hits())
        return warning_of(model, hits, since=f"lately, within {LOOK_S:.0f} s")


def warning_of(model: str, hits: Hits, *, since: str) -> str | None:
    """Say what is wrong if prompts repeat and nothing is found, or nothing is where it is expected; None if nothing.

    `since` says over which time: some seconds, or all the time that a router has had.
    """
    repeats, expected = hits.repeated_prompts, hits.expected_hits
    if repeats >= REPEATS_MIN and hits.repeated_prompts_without_hit >= repeats:
        return (
            f"the KV router finds nothing for the model {model!r}: {since}, {repeats} prompts began as earlier ones "
            "did, and no worker had a block of them. Do the workers keep a prefix cache and publish its events, with "
            "the block size of their model cards? If they publish none, set --no-router-use-kv-events"
        )
    if expected >= REPEATS_MIN and hits.expected_hits_missed >= expected:
        return (
            f"the KV router expects what is not there for the model {model!r}: {since}, {expected} prompts went where "
            "a part of them should be cached, and the workers say that they had nothing of any. Are the prefix caches "
            "of the workers on? Without them --router-mode least-loaded routes as well"
        )
    return None
