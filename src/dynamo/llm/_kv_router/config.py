"""How the requests to a model find their workers: the mode, and what can be set of every mode."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from dynamo._core.errors import ConfigError
from dynamo.llm._kv_router.kv_config import KvRouterConfig, PolicyClass, check, check_choice
from dynamo.llm._numbers import is_number, shown

__all__ = ["KvRouterConfig", "LoadThresholdConfig", "PolicyClass", "RouterConfig", "RouterMode"]

AffinityMode = Literal["hard", "soft"]

AFFINITY_TTL_S_MAX = 31_536_000.0


class RouterMode(enum.StrEnum):
    """How the worker of a request is found."""

    RoundRobin = "round-robin"
    Random = "random"
    PowerOfTwoChoices = "power-of-two"
    LeastLoaded = "least-loaded"
    DeviceAwareWeighted = "device-aware-weighted"
    Direct = "direct"
    KV = "kv"


@dataclass(frozen=True)
class LoadThresholdConfig:
    """From which load on a worker is busy: it gets no request while another one is not. None: never."""

    #: A part of the worker's blocks, from 0 to 1.
    active_decode_blocks_threshold: float | None = None
    active_prefill_tokens_threshold: int | None = None
    #: A multiple of the worker's `max_num_batched_tokens`.
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
        return self != NO_THRESHOLDS


NO_THRESHOLDS = LoadThresholdConfig()


@dataclass(frozen=True)
class RouterConfig:
    """How the requests to a model find their workers."""

    mode: RouterMode = RouterMode.RoundRobin
    #: Of the KV router.
    config: KvRouterConfig | None = None
    active_decode_blocks_threshold: float | None = None
    active_prefill_tokens_threshold: int | None = None
    active_prefill_tokens_threshold_frac: float | None = None
    #: The requests of a session go to one worker until none has come for so long; None: sessions do not matter.
    session_affinity_ttl_secs: float | None = None
    #: hard: to that worker as long as it is there. soft: to that worker unless another one is much cheaper.
    session_affinity_mode: AffinityMode = "hard"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", _router_mode(self.mode))
        check_affinity(self.session_affinity_ttl_secs, self.session_affinity_mode)
        check(
            self.config is None or self.mode is RouterMode.KV,
            f"config is of the KV router, and the mode is {self.mode.value}",
        )
        self.load_thresholds  # noqa: B018  # checks them

    @property
    def load_thresholds(self) -> LoadThresholdConfig:
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


def _router_mode(mode: RouterMode | str) -> RouterMode:
    try:
        return RouterMode(mode.replace("_", "-"))
    except ValueError as error:
        known = ", ".join(one.value for one in RouterMode)
        raise ConfigError(f"{mode!r} is no router mode; there are {known}", setting="router_mode") from error
