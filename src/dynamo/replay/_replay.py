"""Replays a trace with one policy after the other, each in a cluster of its own, and compares them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.stability import beta
from dynamo._core.virtual_clock import run_virtually
from dynamo.mocker import MockerConfig, TimingModel
from dynamo.replay._cluster import open_cluster
from dynamo.replay._drive import Driver
from dynamo.replay._figures import Figures, Goals, figures_of
from dynamo.replay._policies import Policy
from dynamo.replay._trace import TracedRequest, TraceStats, trace_stats

WORKERS_MAX = 1024
#: Nobody looks at single tokens here, and a step that hands none over is quicker.
STREAM_INTERVAL = 32
EVENT_DELAY_S = 0.005
DEFAULT_GOALS = Goals()

#: Is told the policy, and how many of its requests have ended.
OnProgress = Callable[[str, int], None]


@beta(since="0.1")
@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """The cluster, and how the requests come. Raises `ConfigError` for what makes no sense."""

    num_workers: int = 4
    engine: MockerConfig = field(default_factory=lambda: MockerConfig(stream_interval=STREAM_INTERVAL))
    timing: TimingModel | None = None
    #: So many times faster than in the trace.
    arrival_speedup_ratio: float = 1.0
    #: So many requests at a time, each as soon as there is room, whenever it came; None: as they came.
    replay_concurrency: int | None = None
    #: What workers say of their caches is heard so much later.
    event_delay_s: float = EVENT_DELAY_S
    goals: Goals = DEFAULT_GOALS
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_workers <= WORKERS_MAX:
            raise ConfigError(f"num_workers={self.num_workers} must be from 1 to {WORKERS_MAX}", setting="num_workers")
        if not self.arrival_speedup_ratio > 0:
            raise ConfigError(
                f"arrival_speedup_ratio={self.arrival_speedup_ratio} must be more than 0",
                setting="arrival_speedup_ratio",
            )
        if not 0 <= self.event_delay_s < math.inf:
            raise ConfigError(f"event_delay_s={self.event_delay_s} must be 0 or more", setting="event_delay_s")
        if self.replay_concurrency is not None and self.replay_concurrency < 1:
            raise ConfigError(
                f"replay_concurrency={self.replay_concurrency} must be 1 or more", setting="replay_concurrency"
            )


@beta(since="0.1", constructor=False)
class Report(msgspec.Struct, frozen=True):
    """What a replay gives: the trace, and how each policy fared, in the order in which they were asked for.

    `replay_concurrency` is as in `ReplayConfig`: how many requests ran at a time, and None if they came as they came.
    """

    trace: TraceStats
    num_workers: int
    arrival_speedup_ratio: float
    replay_concurrency: int | None
    goals: Goals
    policies: list[Figures]
    #: Whether somebody stopped it: the last policy has not seen all requests, and others are missing.
    is_complete: bool = True

    def to_json(self) -> bytes:
        """Return it as JSON to read, in UTF-8. A figure of nothing is null."""
        return msgspec.json.format(msgspec.json.encode(self))


@beta(since="0.1")
class Replay:
    """One replay. `report` says what there is, also while it runs and after it was interrupted.

    Raises `InvalidArgument` for a trace with a request that is longer than the engines take.
    """

    def __init__(self, requests: Sequence[TracedRequest], policies: Sequence[Policy], config: ReplayConfig) -> None:
        longest = max(request.input_length + request.output_length for request in requests)
        if longest > config.engine.max_context_length:
            raise InvalidArgument(
                f"the trace has a request of {longest} tokens with its answer, and the engines take "
                f"{config.engine.max_context_length}: raise max_context_length, or leave that request out"
            )
        self._requests = requests
        self._policies = policies
        self._config = config
        # The mutable state: what is done, and what runs.
        self._figures: list[Figures] = []
        self._running: tuple[Policy, Driver, list[int]] | None = None

    def run(self, on_progress: OnProgress = lambda policy, count: None) -> Report:
        """Replay the trace with each policy. Ctrl-C raises `KeyboardInterrupt`, as anywhere."""
        for policy in self._policies:
            run_virtually(self._run_policy(policy, on_progress))
            self._figures += self._figures_so_far()
            self._running = None
        return self.report()

    def report(self) -> Report:
        """Return what there is."""
        config = self._config
        figures = [*self._figures, *self._figures_so_far()]
        return Report(
            trace_stats(self._requests),
            config.num_workers,
            config.arrival_speedup_ratio,
            config.replay_concurrency,
            config.goals,
            figures,
            is_complete=self._running is None and len(figures) == len(self._policies),
        )

    async def _run_policy(self, policy: Policy, on_progress: OnProgress) -> None:
        config = self._config
        driver = Driver(self._requests, lambda: on_progress(policy.name, driver.num_ended))
        async with open_cluster(
            policy,
            config.engine,
            config.num_workers,
            seed=config.seed,
            timing=config.timing,
            event_delay_s=config.event_delay_s,
        ) as cluster:
            self._running = policy, driver, list(cluster.engines)
            await driver.run(cluster, speedup_ratio=config.arrival_speedup_ratio, concurrency=config.replay_concurrency)

    def _figures_so_far(self) -> list[Figures]:
        if self._running is None:
            return []
        policy, driver, worker_ids = self._running
        return [figures_of(policy.name, driver.outcomes, worker_ids, self._config.goals)]
