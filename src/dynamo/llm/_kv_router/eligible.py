"""Which workers come into question for a request, and why the others do not."""

from __future__ import annotations

from dynamo._core.errors import NoInstances, Overloaded
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.config import NO_THRESHOLDS, LoadThresholdConfig
from dynamo.llm._kv_router.load import Load
from dynamo.llm._routing import Asked

Excluded = list[tuple[WorkerKey, str]]

#: So many taints are named in a message.
NAMED_MAX = 16


def eligible(asked: Asked, loads: list[Load], thresholds: LoadThresholdConfig) -> tuple[list[Load], Excluded]:
    """Return the workers that come into question, and the others with a sentence each.

    Raises `NoInstances` if the request's own wishes leave none, and `Overloaded` if all that are left are busy.
    """
    excluded: Excluded = []
    if asked.pinned_instance is not None or asked.pinned_dp_rank is not None or asked.constraints.required_taints:
        loads = _wanted(asked, loads, excluded)
    if thresholds is not NO_THRESHOLDS and thresholds.is_set:
        loads = _not_busy(loads, thresholds, excluded)
    if not loads:
        raise NoInstances("no worker is there for the request")
    return loads, excluded


def _wanted(asked: Asked, loads: list[Load], excluded: Excluded) -> list[Load]:
    required = asked.constraints.required_taints
    wanted: list[Load] = []
    for load in loads:
        if asked.pinned_instance not in (None, load.key.worker_id):
            excluded.append((load.key, f"the request names instance {asked.pinned_instance:x}"))
        elif asked.pinned_dp_rank not in (None, load.key.dp_rank):
            excluded.append((load.key, f"the request names rank {asked.pinned_dp_rank}"))
        elif not required <= load.facts.taints:
            missing = ", ".join(sorted(required - load.facts.taints))
            excluded.append((load.key, f"the request requires the taint {missing}"))
        else:
            wanted.append(load)
    if loads and not wanted:
        raise NoInstances(_nobody(asked, loads))
    return wanted


def _nobody(asked: Asked, loads: list[Load]) -> str:
    """Say which of its wishes leaves a request without a worker: the first one, in the order in which they are met."""
    id, rank, required = asked.pinned_instance, asked.pinned_dp_rank, asked.constraints.required_taints
    num_workers = len({load.key.worker_id for load in loads})
    who, has, lacks = f"none of the {num_workers} workers that could take the request", "has", "no worker has"
    if id is not None:
        loads = [load for load in loads if load.key.worker_id == id]
        if not loads:
            return f"{who} is instance {id:x}, which it names"
        who, has, lacks = f"instance {id:x}, which the request names,", "does not have", "it lacks"
    if rank is not None:
        loads = [load for load in loads if load.key.dp_rank == rank]
        if not loads:
            return f"{who} {has} the data parallel rank {rank}, which the request names"
    there = frozenset[str]().union(*(load.facts.taints for load in loads))
    nowhere = required - there
    why = f"{lacks} {_named(nowhere)}" if nowhere else "they are at different workers"
    return (
        f"{who} {has} all the taints that the request requires, {_named(required)}: {why}; "
        f"the taints that there are: {_named(there)}"
    )


def _named(taints: frozenset[str]) -> str:
    shown = ", ".join(sorted(taints)[:NAMED_MAX])
    return (shown + (", ..." if len(taints) > NAMED_MAX else "")) or "none"


def _not_busy(loads: list[Load], thresholds: LoadThresholdConfig, excluded: Excluded) -> list[Load]:
    free: list[Load] = []
    for load in loads:
        why = why_busy(load, thresholds)
        if why is None:
            free.append(load)
        else:
            excluded.append((load.key, f"it is busy: {why}"))
    if loads and not free:
        raise Overloaded(
            f"all {len(loads)} workers that could take the request are busy; the last of them {why}",
            code="all_workers_busy",
        )
    return free


def why_busy(load: Load, thresholds: LoadThresholdConfig) -> str | None:
    """Say over which limit a worker is; None if over none. One whose blocks are unknown is not over theirs."""
    part, tokens = thresholds.active_decode_blocks_threshold, thresholds.active_prefill_tokens_threshold
    times, facts = thresholds.active_prefill_tokens_threshold_frac, load.facts
    if part is not None and facts.total_kv_blocks and load.decode_blocks > part * facts.total_kv_blocks:
        return f"holds {load.decode_blocks} of {facts.total_kv_blocks} blocks, over {part:g} of them"
    if tokens is not None and load.prefill_tokens > tokens:
        return f"has {load.prefill_tokens} tokens to compute, over {tokens}"
    if times is not None and load.prefill_tokens > times * facts.max_num_batched_tokens:
        return f"has {load.prefill_tokens} tokens to compute, over {times:g} times {facts.max_num_batched_tokens}"
    return None
