"""What it would cost to send a request to a worker, and which worker is taken.

In blocks, for each worker:

    prefill = what it has to compute already + what it would have to compute of this prompt
    decode  = what it would hold while it generates; what its requests share with this prompt counts once
    cost    = prefill_load_scale * prefill + decode + decode_active_request_weight * its requests

times a factor below 1 if the request prefers the worker, or above 1 if it shuns it. Nothing cached anywhere, this is
the load of each worker, and the least loaded one is taken. Among equals it is the one with the fewest requests, and
among those one at random, so that routers that do not know of each other do not all choose the same.

Of the prompt, a block that no worker has cached counts once. One that others have counts `overlap_score_credit` times,
divided by how many have it: those share the credit. What one worker alone has, the part of a conversation that is its
own, is best used there: to compute it again makes this request wait and those behind it, and once more when it goes on.
What many have will be asked for again, and one more that has it is one more that can answer.

Without `share_overlap_score_credit` it is the cost of Dynamo 1.6: the credit for all that is cached is taken from the
prompt, and what would be less than nothing is nothing.

A prefix that one worker has cached draws requests there until its load outweighs what they save; then another worker
computes the prefix and has it, too. While hardly more than one request per worker runs, that can take long: few
workers then do most of the work, and nobody waits for it.

The terms are computed column by column, a list for all workers at a time: a third of the time of one by one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dynamo.llm._kv_router.kv_config import KvRouterConfig
from dynamo.llm._kv_router.load import Load
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._routing import RoutingConstraints


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much; see `KvRouterConfig`."""

    overlap_credit: float
    credit_decay: float
    prefill_scale: float
    request_weight: float
    shares_credit: bool
    tracks_prefill: bool = True

    @classmethod
    def of(cls, config: KvRouterConfig) -> Weights:
        """Return those of a configuration."""
        return cls(
            config.overlap_score_credit,
            config.overlap_score_credit_decay,
            config.prefill_load_scale,
            config.decode_active_request_weight,
            config.share_overlap_score_credit,
            config.router_track_prefill_tokens,
        )


@dataclass(slots=True)
class Terms:
    """The cost of each worker and what it is made of, as it was when a request came."""

    #: Blocks of the prompt in its cache.
    overlap_blocks: list[int]
    #: Tokens that it has to compute already.
    active_prefill_tokens: list[int]
    #: Blocks that it would have to compute, with this request; those that others have cached count by the credit.
    prefill_blocks: list[float]
    #: Blocks that it would hold.
    decode_blocks: list[int]
    num_requests: list[int]
    #: By what the cost is multiplied, because of what the request prefers; empty: by 1.
    factors: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


def weigh(
    prompt: Prompt,
    loads: Sequence[Load],
    overlaps: Sequence[int],
    shared: Mapping[Load, int],
    weights: Weights,
    factors: list[float] | None = None,
) -> Terms:
    """Return the cost of sending a prompt to each worker; `shared` is what their requests hold of it."""
    num_tokens, num_blocks, block_size = prompt.num_tokens, max(1, prompt.num_blocks), prompt.block_size
    active = [load.prefill_tokens for load in loads]
    if shared:
        decode = [load.decode_blocks + num_blocks - shared.get(load, 0) for load in loads]
    else:
        decode = [load.decode_blocks + num_blocks for load in loads]
    credits = _credits(overlaps, active, num_blocks * block_size, weights)
    scale = weights.prefill_scale
    if weights.tracks_prefill:
        prefill = [
            blocks if (blocks := (tokens + num_tokens) / block_size - one) > 0.0 else 0.0
            for tokens, one in zip(active, credits, strict=True)
        ]
        costs = [scale * one + blocks for one, blocks in zip(prefill, decode, strict=True)]
    else:
        # Nobody knows what is to be computed: what is cached need not be held once more.
        prefill = [0.0] * len(loads)
        costs = [max(blocks - one, 0.0) for blocks, one in zip(decode, credits, strict=True)]
    num_requests = [load.num_requests for load in loads]
    if weights.request_weight:
        costs = [cost + weights.request_weight * num for cost, num in zip(costs, num_requests, strict=True)]
    if factors:
        costs = [cost * factor for cost, factor in zip(costs, factors, strict=True)]
    return Terms(list(overlaps), active, prefill, decode, num_requests, factors or [], costs)


def _credits(overlaps: Sequence[int], active: Sequence[int], request_tokens: int, weights: Weights) -> Sequence[float]:
    """What is taken from what each worker has to compute, in blocks, for what it has cached."""
    if not any(overlaps):
        return overlaps
    shares, credit = weights.shares_credit, weights.overlap_credit
    credits = _shared(overlaps, credit) if shares else [credit * one for one in overlaps]
    # Whoever has most of the prompt computes the rest of it, and no less: the others lack the difference.
    beyond = max(credits) - min(1.0, credit) * max(overlaps) if shares else 0.0
    if weights.credit_decay:
        decays = _decays(active, request_tokens, weights.credit_decay)
        credits = [one * decay for one, decay in zip(credits, decays, strict=True)]
    return [one - beyond for one in credits] if shares else credits


def _shared(overlaps: Sequence[int], credit: float) -> list[float]:
    """The credit of each worker, where those that have a block share what it is worth."""
    total, depth = 0.0, 0
    by_depth = {0: 0.0}
    for num_less_deep, overlap in enumerate(sorted(overlaps)):
        if overlap > depth:
            total += credit * (overlap - depth) / (len(overlaps) - num_less_deep)
            depth = overlap
            by_depth[depth] = total
    return [by_depth[overlap] for overlap in overlaps]


def _decays(active: Sequence[int], request_tokens: int, decay: float) -> list[float]:
    """By what the credit of each worker is multiplied: less the more it has to compute beyond the least busy one."""
    least = min(active)
    return [1.0 / (1.0 + decay * (tokens - least) / request_tokens) for tokens in active]


def preference(constraints: RoutingConstraints, load: Load) -> float:
    """Return the factor of a worker's cost: below 1 if the request prefers its taints, above 1 if it shuns them."""
    weight = sum(weight for taint, weight in constraints.preferred_taints.items() if taint in load.facts.taints)
    return math.exp(-math.tanh(weight))


def pick(costs: Sequence[float], num_requests: Sequence[int], temperature: float, rng: random.Random) -> int:
    """Return the position of the worker to take."""
    least = min(costs)
    if temperature > 0:
        return _drawn(costs, least, max(costs), temperature, rng)
    equals = [position for position, cost in enumerate(costs) if cost == least]
    if len(equals) > 1:
        fewest = min([num_requests[position] for position in equals])
        equals = [position for position in equals if num_requests[position] == fewest]
    return equals[0] if len(equals) == 1 else rng.choice(equals)


def _drawn(costs: Sequence[float], least: float, most: float, temperature: float, rng: random.Random) -> int:
    """Draw one, the cheaper the likelier. Costs count by where they are between the least and the most."""
    spread = (most - least) * temperature or 1.0
    weights = [math.exp((least - cost) / spread) for cost in costs]
    return rng.choices(range(len(costs)), weights)[0]
