"""Where requests go: to the worker with the fewest, and among those to the one that has the most of the prompt."""

from dynamo.llm import Candidate


def cost(candidate: Candidate) -> float:
    """What a request would cost at a worker. The cheapest one takes it."""
    missing_part = 1 - candidate.overlap_blocks / candidate.num_blocks
    return candidate.active_requests + missing_part
