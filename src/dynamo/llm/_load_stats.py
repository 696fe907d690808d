"""What a worker tells of its load: the forms of it that people construct, and how they travel.

Counts are whole numbers from 0; shares are from 0 to 1, also where an older name says percent.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dynamo._core.stability import stable
from dynamo.llm._contracts import Contract, Count, Share, WireForm

RANKS_MAX = 1024
POSITIONS_MAX = 1024

Rank = Annotated[int, Field(strict=True, ge=0, le=RANKS_MAX - 1)]


@stable(since="0.1")
class WorkerStats(Contract):
    """What a worker, or one of its ranks, tells of its requests."""

    #: Requests that it works on now.
    request_active_slots: Count
    #: Requests that it works on at a time, at most.
    request_total_slots: Count
    #: Requests that it has taken, and has not begun.
    num_requests_waiting: Count = 0
    #: Whose load this is, of a worker with several data parallel ranks; None: there is one.
    data_parallel_rank: Rank | None = None


@stable(since="0.1")
class KvStats(Contract):
    """What a worker tells of its KV cache."""

    #: Blocks that are not free.
    kv_active_blocks: Count
    #: Blocks that it has; 0: that is not known.
    kv_total_blocks: Count
    #: Which share of its blocks is in use, from 0 to 1.
    gpu_cache_usage_perc: Share = 0.0
    #: Which share of the blocks that were looked for was there, from 0 to 1.
    gpu_prefix_cache_hit_rate: Share = 0.0


@stable(since="0.1")
class SpecDecodeStats(Contract):
    """What a worker tells of its speculative decoding; None is what is not known."""

    #: Tokens in one draft, at most.
    num_spec_tokens: Count | None = None
    #: Drafts since it began.
    num_drafts: Count | None = None
    #: Tokens in them.
    num_draft_tokens: Count | None = None
    #: Those of the tokens that were right.
    num_accepted_tokens: Count | None = None
    #: The same, by their position in a draft.
    num_accepted_tokens_per_pos: Annotated[list[Count], Field(max_length=POSITIONS_MAX)] | None = None


@stable(since="0.1")
class ForwardPassMetrics(Contract):
    """All that a worker, or one of its ranks, tells of its load."""

    worker_stats: WorkerStats
    kv_stats: KvStats
    #: None: it does not decode speculatively.
    spec_decode_stats: SpecDecodeStats | None = None


@stable(since="0.1")
class LoadReport(Contract):
    """What `load_metrics` answers: the last values of each rank. Empty before the first."""

    ranks: Annotated[list[ForwardPassMetrics], Field(max_length=RANKS_MAX)]


LOAD_REPORT = WireForm(LoadReport)
