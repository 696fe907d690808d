"""Prompts and workers for the tests of the router's parts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.affinity import Sessions
from dynamo.llm._kv_router.config import NO_THRESHOLDS, AffinityMode, KvRouterConfig, LoadThresholdConfig
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.load import Booking, Load, Tracking
from dynamo.llm._kv_router.policy import CustomPolicy, Policy
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._kv_router.route import Desk
from dynamo.llm._kv_router.selector import Selector

BLOCK_SIZE = 4


def prompt(num_tokens: int, *, first: int = 0) -> Prompt:
    """Tokens in a row; two with the same first one agree as far as the shorter goes."""
    return Prompt.of(asked(list(range(first, first + num_tokens))), BLOCK_SIZE)


def book(fleet: Fleet, load: Load, of: Prompt, *, overlap_blocks: int = 0, tracking: Tracking | None = None) -> Booking:
    return fleet.book(load, of, of.num_tokens - overlap_blocks * BLOCK_SIZE, tracking or Tracking())


class Holdings:
    """What is cached where, as somebody says."""

    def __init__(self, blocks: Mapping[int, int] | None = None) -> None:
        self.blocks = {WorkerKey(id): count for id, count in (blocks or {}).items()}

    def find(self, tokens_hashes: Sequence[int]) -> dict[WorkerKey, int]:
        return {worker: min(count, len(tokens_hashes)) for worker, count in self.blocks.items() if count}


def desk(
    workers: FixedWorkers,
    cached: Mapping[int, int] | None = None,
    *,
    config: KvRouterConfig | None = None,
    policy: Policy | None = None,
    sessions: Sessions | None = None,
    affinity_mode: AffinityMode = "hard",
    thresholds: LoadThresholdConfig = NO_THRESHOLDS,
    seed: int = 0,
) -> Desk:
    """A desk before workers that have so many blocks of every prompt cached."""
    selector = Selector(
        Fleet(workers), config or KvRouterConfig(), random.Random(seed),
        overlaps=Holdings(cached), policy=None if policy is None else CustomPolicy(policy),
        sessions=sessions, affinity_mode=affinity_mode, thresholds=thresholds,
    )  # fmt: skip
    return Desk(selector, lambda: 0.0)
