"""Why a worker was not taken, in one sentence."""

from __future__ import annotations

from dynamo.llm._kv_router.cost import Terms, Weights


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
