"""What a cost is made of, and why a worker was not taken: in one sentence each."""

from __future__ import annotations

from dynamo.llm._kv_router.cost import Terms, Weights


def cost_formula(weights: Weights, *, is_cached: bool, is_preferred: bool) -> str:
    """Return how a cost comes of the terms, in the words of the table that shows them.

    `is_cached` is whether any of the workers has a block of the prompt, and `is_preferred` whether costs have factors.
    """
    factor = "; times the factor beside it, for what the request or its session prefers" if is_preferred else ""
    return _sum(weights, is_cached) + factor


def _sum(weights: Weights, is_cached: bool) -> str:
    credit = f"{'up to ' if weights.credit_decay else ''}{weights.overlap_credit:g}"
    times = f"{credit} times, divided by how many have it"
    requests = f" + {weights.request_weight:g} * requests" if weights.request_weight else ""
    shares = weights.shares_credit
    if not weights.tracks_prefill:
        if is_cached and not shares:
            return f"max(to hold - {credit} * cached, 0){requests}"
        own = "; to hold what it has cached does not count, and what others have cached counts "
        return f"to hold{requests}" + (own + times if is_cached else "")
    cost = f"{weights.prefill_scale:g} * to compute + to hold{requests}"
    if not is_cached:
        return cost
    if shares:
        return f"{cost}; to compute what others have cached counts {times}"
    return f"{cost}; {credit} * cached is taken off what is to compute"


def why_it_lost(
    terms: Terms,
    position: int,
    taken: int,
    *,
    num_blocks: int,
    block_size: int,
    weights: Weights,
    by_cost: bool,
) -> str:
    """Compare a worker with the one that was taken; `by_cost` is whether the cheapest one was."""
    cost, best = terms.costs[position], terms.costs[taken]
    if cost <= best and not by_cost:
        return "it is not dearer, but the draw or the policy fell on another one"
    if cost == best:
        more = terms.num_requests[position] - terms.num_requests[taken]
        return f"it costs as much, and has {more} requests more" if more > 0 else "it costs as much: another was drawn"
    overlap, its_overlap = terms.overlap_blocks[taken], terms.overlap_blocks[position]
    tokens, its_tokens = terms.active_prefill_tokens[taken], terms.active_prefill_tokens[position]
    num_requests, its_requests = terms.num_requests[taken], terms.num_requests[position]
    differences = [
        (
            weights.prefill_scale * weights.overlap_credit * (overlap - its_overlap),
            f"it has {its_overlap} of {num_blocks} blocks cached, not {overlap}",
        ),
        (
            weights.prefill_scale * (its_tokens - tokens) / block_size,
            f"it has {its_tokens} tokens to compute before this request, not {tokens}",
        ),
        (
            float(terms.decode_blocks[position] - terms.decode_blocks[taken]),
            f"it would hold {terms.decode_blocks[position]} blocks, not {terms.decode_blocks[taken]}",
        ),
        (weights.request_weight * (its_requests - num_requests), f"it has {its_requests} requests, not {num_requests}"),
    ]
    most, reason = max(differences)
    if most <= 0:
        return "the request prefers another one" if terms.factors else "it is dearer"
    return reason
