"""How the requests to a model find their workers: the mode, and what can be set of every mode."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from dynamo._core.errors import ConfigError
from dynamo._core.stability import beta, stable
from dynamo.llm._kv_router.checks import check, check_choice
from dynamo.llm._kv_router.kv_config import KvRouterConfig
from dynamo.llm._kv_router.policy_class import PolicyClass
from dynamo.llm._numbers import is_number, shown

__all__ = ["KvRouterConfig", "LoadThresholdConfig", "PolicyClass", "RouterConfig", "RouterMode"]

AffinityMode = Literal["hard", "soft"]

AFFINITY_TTL_S_MAX = 31_536_000.0


@stable(since="0.1")
class RouterMode(enum.StrEnum):
    """How the worker of a request is found."""

    RoundRobin = "round-robin"
    Random = "random"
    PowerOfTwoChoices = "power-of-two"
    LeastLoaded = "least-loaded"
    DeviceAwareWeighted = "device-aware-weighted"
    Direct = "direct"
    KV = "kv"


@beta(since="0.1")
@dataclass(frozen=True)
class LoadThresholdConfig:
    """From which load on a worker is busy: it gets no request while another one is not.

    None, the default of each, is never. Raises `ConfigError`, which names the field, for a value that makes no sense.
    """

    #: Blocks that it holds while it generates, as a part of all its blocks, from 0 to 1.
    active_decode_blocks_threshold: float | None = None
    #: Tokens that it has to compute, from 0.
    active_prefill_tokens_threshold: int | None = None
    #: The same as a multiple of the worker's `max_num_batched_tokens`, from 0.
    active_prefill_tokens_threshold_frac: float | None = None

    def __post_init__(self) -> None:
        part = self.active_decode_blocks_threshold
        check(
            part is None or (is_number(part) and 0 <= part <= 1),
            f"active_decode_blocks_threshold is {shown(part)}; it is a part of all blocks, from 0 to 1",
        )
        for name in ("active_prefill_tokens_threshold", "active_prefill_tokens_threshold_frac"):
            value = getattr(self, name)
            check(value is None or (is_number(value) and value >= 0), f"{name} is {shown(value)}; it must be from 0")

    @property
    def is_set(self) -> bool:
        """Whether a worker is ever busy."""
        return self != NO_THRESHOLDS


NO_THRESHOLDS = LoadThresholdConfig()


@stable(since="0.1")
@dataclass(frozen=True)
class RouterConfig:
    """How the requests to a model find their workers.

    Raises `ConfigError`, which names the field, for a value that makes no sense.
    """

    #: A `RouterMode`, or its name: "kv".
    mode: RouterMode = RouterMode.RoundRobin
    #: Of the KV router; None: its defaults. Refused in other modes.
    config: KvRouterConfig | None = None
    #: See `LoadThresholdConfig`; for the mode kv.
    active_decode_blocks_threshold: float | None = None
    active_prefill_tokens_threshold: int | None = None
    active_prefill_tokens_threshold_frac: float | None = None
    #: The requests of a session go to one worker until none has come for so many seconds, from 1 to a year; None:
    #: sessions do not matter.
    session_affinity_ttl_secs: float | None = None
    #: hard: to that worker as long as it is there. soft: to that worker unless another one is much cheaper.
    session_affinity_mode: AffinityMode = "hard"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", _router_mode(self.mode))
        check_affinity(self.session_affinity_ttl_secs, self.session_affinity_mode)
        check(
            self.config is None or isinstance(self.config, KvRouterConfig),
            f"config is {shown(self.config)}; it must be a KvRouterConfig, or None",
        )
        check(
            self.config is None or self.mode is RouterMode.KV,
            f"config is of the KV router, and the mode is {self.mode.value}",
        )
        self.load_thresholds  # noqa: B018  # checks them

    @property
    def load_thresholds(self) -> LoadThresholdConfig:
        """From which load on a worker is busy."""
        return LoadThresholdConfig(
            self.active_decode_blocks_threshold,
            self.active_prefill_tokens_threshold,
            self.active_prefill_tokens_threshold_frac,
        )


def check_affinity(ttl_secs: float | None, mode: str) -> None:
    """Raise `ConfigError` unless sessions can be kept to their workers so."""
    check(
        ttl_secs is None or (is_number(ttl_secs) and 1 <= ttl_secs <= AFFINITY_TTL_S_MAX),
        f"session_affinity_ttl_secs is {shown(ttl_secs)}; it must be from 1 to {AFFINITY_TTL_S_MAX:.0f}",
    )
    check_choice("session_affinity_mode", mode, ("hard", "soft"))


def _router_mode(mode: object) -> RouterMode:
    name = mode.replace("_", "-") if isinstance(mode, str) else None
    for known in RouterMode:
        if known.value == name:
            return known
    names = ", ".join(one.value for one in RouterMode)
    raise ConfigError(f"mode: {shown(mode)} is no router mode; there are {names}", setting="router_mode")
