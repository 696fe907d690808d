"""What a replay has measured: how long people waited, what caches saved, and how even the work was.

TTFT is the time from when a request comes to its first token. ITL is the time from one token to the next: of each
request the mean over its answer, and percentiles are over requests. The hit rate is the part of all prompt tokens
that the engines found in their caches. The load of a worker is how many requests it had on average.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from dynamo._core.stability import beta
from dynamo.replay._drive import Outcome


@beta(since="0.1", constructor=False)
class Spread(msgspec.Struct, frozen=True):
    """Of many values, the mean and some percentiles: `p50`, `p90` and `p99`, in the unit of the values."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return it; nothing is `nan`, which JSON shows as null."""
        if not values:
            return cls(math.nan, math.nan, math.nan, math.nan)
        in_order = sorted(values)
        mean = math.fsum(in_order) / len(in_order)
        return cls(mean, quantile(in_order, 0.5), quantile(in_order, 0.9), quantile(in_order, 0.99))


@beta(since="0.1", constructor=False)
class WorkerFigures(msgspec.Struct, frozen=True):
    """What one worker did."""

    num_requests: int
    #: How many requests it had on average.
    load: float
    #: Tokens of prompts that it computed, because they were not in its cache.
    num_computed_tokens: int


@beta(since="0.1")
class Goals(msgspec.Struct, frozen=True):
    """What a request must keep to be counted as good."""

    ttft_s: float = 2.0
    itl_s: float = 0.05


@beta(since="0.1", constructor=False)
class Figures(msgspec.Struct, frozen=True):
    """How one policy fared."""

    policy: str
    num_requests: int
    num_failed: int
    #: How many requests failed with each code.
    errors: dict[str, int]
    #: From the first request to the last answer.
    duration_s: float
    ttft_s: Spread
    itl_s: Spread
    #: From when a request comes to the end of its answer.
    latency_s: Spread
    hit_rate: float
    #: The load of the busiest worker, divided by the mean; the same for the number of requests.
    load_max_over_mean: float
    requests_max_over_mean: float
    requests_per_s: float
    output_tokens_per_s: float
    #: Requests that kept the goals, per second, and as a part of all.
    goodput_per_s: float
    goodput: float
    workers: list[WorkerFigures]
    #: TTFTs below which 1, 2, 3, ... percent of the requests are: what the picture is drawn of.
    ttft_percentiles_s: list[float]


def figures_of(policy: str, outcomes: Sequence[Outcome], worker_ids: Sequence[int], goals: Goals) -> Figures:
    """Return the figures of the requests that have ended."""
    ended = [one for one in outcomes if one.end_s is not None]
    done = [one for one in ended if one.is_done and one.first_s is not None]
    duration_s = max((one.end_s or 0.0 for one in ended), default=0.0)
    per_s = 1 / duration_s if duration_s else 0.0
    ttfts = sorted(one.ttft_s for one in done)
    num_good = sum(one.ttft_s <= goals.ttft_s and (one.itl_s or 0.0) <= goals.itl_s for one in done)
    workers = _workers(done, worker_ids, per_s)
    return Figures(
        policy=policy,
        num_requests=len(ended),
        num_failed=len(ended) - len(done),
        errors=dict(Counter(one.error for one in ended if one.error is not None)),
        duration_s=duration_s,
        ttft_s=Spread.of(ttfts),
        itl_s=Spread.of([itl for one in done if (itl := one.itl_s) is not None]),
        latency_s=Spread.of([(one.end_s or 0.0) - one.sent_s for one in done]),
        hit_rate=_ratio(sum(one.cached_tokens for one in done), sum(one.input_length for one in done)),
        load_max_over_mean=_max_over_mean([one.load for one in workers]),
        requests_max_over_mean=_max_over_mean([one.num_requests for one in workers]),
        requests_per_s=len(done) * per_s,
        output_tokens_per_s=sum(one.num_tokens for one in done) * per_s,
        goodput_per_s=num_good * per_s,
        goodput=_ratio(num_good, len(ended)),
        workers=workers,
        ttft_percentiles_s=[quantile(ttfts, percent / 100) for percent in range(1, 101)] if ttfts else [],
    )


def quantile(in_order: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least this share of them does not exceed."""
    return in_order[max(0, math.ceil(share * len(in_order)) - 1)]


def _workers(done: Sequence[Outcome], worker_ids: Sequence[int], per_s: float) -> list[WorkerFigures]:
    by_worker: dict[int | None, list[Outcome]] = {id: [] for id in worker_ids}
    for one in done:
        by_worker[one.worker_id].append(one)
    return [
        WorkerFigures(
            len(its),
            math.fsum((one.end_s or 0.0) - one.sent_s for one in its) * per_s,
            sum(one.input_length - one.cached_tokens for one in its),
        )
        for its in by_worker.values()
    ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _max_over_mean(values: Sequence[float]) -> float:
    total = math.fsum(values)
    return max(values) * len(values) / total if total else 1.0
