"""Which worker takes a request: everything that is weighed, put together. No I/O; time and chance are passed in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.affinity import SOFT_FACTOR, Sessions
from dynamo.llm._kv_router.approx import ApproxIndex
from dynamo.llm._kv_router.config import NO_THRESHOLDS, AffinityMode, KvRouterConfig, LoadThresholdConfig
from dynamo.llm._kv_router.cost import Terms, Weights, pick, preference, weigh
from dynamo.llm._kv_router.decision import ChosenBy, Weighed
from dynamo.llm._kv_router.eligible import eligible
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.load import Booking, Load, Tracking
from dynamo.llm._kv_router.policy import CustomPolicy
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._kv_router.stats import Beginnings, RouterStats
from dynamo.llm._routing import Asked, RouterConfigOverride
from dynamo.runtime._client import next_in_turn


class Overlaps(Protocol):
    """Knows which workers hold the beginning of a prompt."""

    def find(self, tokens_hashes: Sequence[int]) -> dict[WorkerKey, int]:
        """Return how many leading blocks each worker holds; workers without any are absent."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a request is weighed with."""

    weights: Weights
    tracking: Tracking
    temperature: float

    @classmethod
    def of(cls, config: KvRouterConfig) -> Settings:
        """Return those of a configuration."""
        tracking = Tracking(
            config.router_track_prefill_tokens,
            config.router_track_active_blocks,
            config.router_track_output_blocks,
            config.router_assume_kv_reuse,
        )
        return cls(Weights.of(config), tracking, config.router_temperature)


class Selector:
    """Weighs the workers for each request, and books it with the one that is taken."""

    def __init__(
        self,
        fleet: Fleet,
        config: KvRouterConfig,
        rng: random.Random,
        *,
        overlaps: Overlaps | None,
        sent: ApproxIndex | None = None,
        policy: CustomPolicy | None = None,
        sessions: Sessions | None = None,
        affinity_mode: AffinityMode = "hard",
        thresholds: LoadThresholdConfig = NO_THRESHOLDS,
    ) -> None:
        """`overlaps` knows by events what is cached where, and `sent` by what was sent there."""
        self.fleet: Fleet = fleet
        self.stats: RouterStats = RouterStats()
        self.sent: ApproxIndex | None = sent
        self.sessions: Sessions | None = sessions
        self._config = config
        self._settings = Settings.of(config)
        self._rng = rng
        self._overlaps = overlaps
        self._policy = policy
        self._affinity_mode = affinity_mode
        self._thresholds = thresholds
        self._beginnings = Beginnings()
        # Where round robin would have sent the last request.
        self._last_in_turn = -1

    def settings(self, override: RouterConfigOverride | None) -> Settings:
        """Return what a request is weighed with. Raises `InvalidArgument` for an override that makes no sense."""
        if override is None:
            return self._settings
        try:
            return Settings.of(self._config.with_overrides(override))
        except ConfigError as error:
            raise InvalidArgument(f"the request's router_config_override is wrong: {error}") from error

    def wanted(self, asked: Asked, ids: list[int]) -> list[Load]:
        """Return those of these instances that come into question. Raises like `select`."""
        return eligible(asked, self.fleet.loads(ids), self._thresholds)[0]

    def select(self, asked: Asked, prompt: Prompt, ids: list[int], now: float) -> Weighed:
        """Weigh these instances for a request and take one; nothing is booked yet.

        Raises `NoInstances` or `Overloaded` if none of them comes into question.
        """
        began = perf_counter()
        settings = self.settings(asked.override)
        loads, excluded = eligible(asked, self.fleet.loads(ids), self._thresholds)
        overlaps = self.overlaps(prompt, loads)
        looked_up = perf_counter()
        tracking = settings.tracking
        shared = self.fleet.active.shared(prompt) if tracking.kv_reuse and tracking.active_blocks else {}
        bound = self._bound_to(asked, now)
        factors = self._factors(asked, loads, bound)
        terms = weigh(prompt, loads, overlaps, shared, settings.weights, factors)
        position, chosen_by = self._take(asked, prompt, loads, terms, settings.temperature, bound, now)
        self._last_in_turn = next_in_turn(ids, self._last_in_turn)
        weighed = Weighed(
            asked.context.request_id, prompt.num_tokens, prompt.num_blocks, prompt.block_size, loads, terms, position,
            chosen_by, self._last_in_turn, settings.weights, excluded,
        )  # fmt: skip
        self.stats.lookup.add(looked_up - began)
        self.stats.scheduling.add(perf_counter() - looked_up)
        return weighed

    def book(self, weighed: Weighed, asked: Asked, prompt: Prompt, now: float) -> Booking:
        """Count a request for the worker that was taken, and remember that it was sent there."""
        load = weighed.load
        self.note_sent(load, prompt, now)
        if self.sessions is not None and asked.session_id is not None:
            self.sessions.bind(asked.session_id, load.key, now)
        tracking = self.settings(asked.override).tracking
        reused = weighed.overlap_blocks * prompt.block_size if tracking.kv_reuse else 0
        return self.fleet.book(load, prompt, prompt.num_tokens - reused, tracking)

    def note_sent(self, load: Load, prompt: Prompt, now: float) -> None:
        """Remember that a worker was sent a prompt, if that is how the router knows what is cached."""
        if self.sent is not None:
            self.sent.note_sent(load.key, prompt.tokens_hashes, now, room_blocks=load.facts.total_kv_blocks)

    def count(self, weighed: Weighed, prompt: Prompt) -> None:
        """Count a request that has been decided on, once however often it is tried."""
        stats, overlap = self.stats, weighed.overlap_blocks
        stats.decisions += 1
        stats.prompt_blocks += len(prompt.tokens_hashes)
        stats.predicted_cached_blocks += overlap
        stats.predicted_cached_tokens += overlap * prompt.block_size
        if prompt.num_cacheable_blocks and self._beginnings.note(prompt.tokens_hashes[0]):
            stats.repeated_prompts += 1
            knows_caches = self._overlaps is not None or self.sent is not None
            stats.repeated_prompts_without_hit += knows_caches and not any(weighed.terms.overlap_blocks)

    def count_reported(self, weighed: Weighed, num_tokens: int) -> None:
        """Count what the worker of a request says that it had cached, once for each worker that has it."""
        stats = self.stats
        stats.reported_cached_tokens += num_tokens
        if weighed.overlap_blocks:
            stats.expected_hits += 1
            stats.expected_hits_missed += not num_tokens

    def overlaps(self, prompt: Prompt, loads: Sequence[Load]) -> list[int]:
        """Return how many blocks of a prompt each worker should find in its cache."""
        hashes = prompt.tokens_hashes
        found = self._overlaps.find(hashes) if self._overlaps is not None and hashes else {}
        blocks = [found.get(load.key, 0) for load in loads] if found else [0] * len(loads)
        if self.sent is not None and hashes and (expected := self.sent.find(hashes)):
            blocks = [max(one, expected.get(load.key, 0)) for one, load in zip(blocks, loads, strict=True)]
        most = prompt.num_cacheable_blocks
        return [min(one, most) for one in blocks] if blocks and max(blocks) > most else blocks

    def _bound_to(self, asked: Asked, now: float) -> WorkerKey | None:
        if self.sessions is None or asked.session_id is None:
            return None
        return self.sessions.find(asked.session_id, now)

    def _factors(self, asked: Asked, loads: Sequence[Load], bound: WorkerKey | None) -> list[float] | None:
        """By what the cost of each worker is multiplied; None: by nothing."""
        soft = bound is not None and self._affinity_mode == "soft"
        if not asked.constraints.preferred_taints and not soft:
            return None
        factors = [preference(asked.constraints, load) for load in loads]
        if soft:
            factors = [
                one * SOFT_FACTOR if load.key == bound else one for one, load in zip(factors, loads, strict=True)
            ]
        return factors

    def _take(
        self,
        asked: Asked,
        prompt: Prompt,
        loads: list[Load],
        terms: Terms,
        temperature: float,
        bound: WorkerKey | None,
        now: float,
    ) -> tuple[int, ChosenBy]:
        if asked.pinned_instance is not None and len(loads) == 1:
            return 0, ChosenBy.PINNED
        if bound is not None and self._affinity_mode == "hard":
            for position, load in enumerate(loads):
                if load.key == bound:
                    return position, ChosenBy.SESSION
        chosen_by = ChosenBy.TEMPERATURE if temperature > 0 else ChosenBy.COST
        if self._policy is not None:
            position_or_none, terms.costs = self._policy.pick(prompt, loads, terms, now)
            if position_or_none is not None:
                return position_or_none, ChosenBy.POLICY
            chosen_by = ChosenBy.POLICY
        return pick(terms.costs, terms.num_requests, temperature, self._rng), chosen_by
