"""The options of a router as settings: how the requests to a model find their workers.

Whoever has workers behind it derives its settings from these, so flags, variables and checks are the same everywhere.
The options of the KV router are those of `KvRouterConfig`, with its defaults, and `router_` before their names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields

import msgspec

from dynamo._core.errors import ConfigError
from dynamo._core.stability import Tier
from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig, RouterMode
from dynamo.llm._open_router import check_router_config
from dynamo.runtime._settings import Settings, option

_KV = KvRouterConfig()
_ONLY_KV = "kv: "


@dataclass(frozen=True, kw_only=True)
class RouterSettings(Settings):
    """How the requests to a model find their workers."""

    router_mode: str = option(
        RouterMode.RoundRobin.value,
        "how the worker of a request is found; kv: where its prompt's KV cache is, beside the load",
        choices=[mode.value for mode in RouterMode],
    )
    router_session_affinity_ttl_secs: float | None = option(
        None, "keep each session (x-dynamo-session-id) with one worker until it was idle for so many seconds", least=1
    )
    router_session_affinity_mode: str = option(
        "hard", "soft, with kv: unless another worker is much cheaper", choices=["hard", "soft"], tier=Tier.BETA
    )
    active_decode_blocks_threshold: float | None = option(
        None, _ONLY_KV + "a worker is busy from this part of its blocks on", least=0, most=1
    )
    active_prefill_tokens_threshold: int | None = option(
        None, _ONLY_KV + "a worker is busy with more tokens to compute", least=0
    )
    active_prefill_tokens_threshold_frac: float | None = option(
        None,
        _ONLY_KV + "a worker is busy with more than this times its max_num_batched_tokens to compute",
        least=0,
        tier=Tier.BETA,
    )
    router_use_kv_events: bool = option(
        _KV.use_kv_events, _ONLY_KV + "learn from the workers' events what they hold; else remember what was sent where"
    )
    router_overlap_score_credit: float = option(
        _KV.overlap_score_credit,
        _ONLY_KV + "how often a block counts that is to be computed and that others have cached; 0 ignores caches",
        least=0,
        tier=Tier.BETA,
    )
    router_share_overlap_score_credit: bool = option(
        _KV.share_overlap_score_credit,
        _ONLY_KV + "divide that by the number of workers that have the block",
        tier=Tier.BETA,
    )
    router_overlap_score_credit_decay: float = option(
        _KV.overlap_score_credit_decay,
        _ONLY_KV + "how fast that falls for workers with more to compute",
        least=0,
        tier=Tier.EXPERIMENTAL,
    )
    router_prefill_load_scale: float = option(
        _KV.prefill_load_scale, _ONLY_KV + "what a block to compute costs; one to hold costs 1", least=0, tier=Tier.BETA
    )
    router_decode_active_request_weight: float = option(
        _KV.decode_active_request_weight,
        _ONLY_KV + "what each request of a worker costs, in blocks",
        least=0,
        tier=Tier.BETA,
    )
    router_temperature: float = option(
        _KV.router_temperature,
        _ONLY_KV + "0 takes the cheapest worker; above, workers are drawn by their costs",
        least=0,
        tier=Tier.BETA,
    )
    router_approximate_cache_policy: str = option(
        _KV.approximate_cache_policy,
        _ONLY_KV + "without events: forget what was sent after a time, or when the cache is full",
        choices=["ttl", "lru"],
        tier=Tier.BETA,
    )
    router_ttl_secs: float = option(
        _KV.router_ttl_secs, _ONLY_KV + "after how many seconds that is", least=0.001, tier=Tier.BETA
    )
    router_predicted_ttl_secs: float | None = option(
        None,
        _ONLY_KV + "with events: expect for so many seconds that a worker holds what it was sent",
        least=0.001,
        tier=Tier.EXPERIMENTAL,
    )
    router_replica_sync: bool = option(
        _KV.router_replica_sync, _ONLY_KV + "tell the other routers which requests run where", tier=Tier.BETA
    )
    router_track_active_blocks: bool = option(
        _KV.router_track_active_blocks, _ONLY_KV + "count the blocks that requests hold", tier=Tier.BETA
    )
    router_track_output_blocks: bool = option(
        _KV.router_track_output_blocks, _ONLY_KV + "count those of generated tokens, too", tier=Tier.BETA
    )
    router_assume_kv_reuse: bool = option(
        _KV.router_assume_kv_reuse, _ONLY_KV + "count blocks that requests of a worker share once", tier=Tier.BETA
    )
    router_track_prefill_tokens: bool = option(
        _KV.router_track_prefill_tokens, _ONLY_KV + "count the prompts that are being computed", tier=Tier.BETA
    )
    router_queue_threshold: float | None = option(
        None,
        _ONLY_KV + "requests wait while each worker has more than this times its max_num_batched_tokens to compute",
        least=0.001,
    )
    router_queue_policy: str = option(
        _KV.queue_policy,
        _ONLY_KV + "who goes first of those that wait",
        choices=["fcfs", "lcfs", "wspt"],
        tier=Tier.BETA,
    )
    router_queue_size_max: int = option(_KV.queue_size_max, _ONLY_KV + "so many wait at most", least=1, tier=Tier.BETA)
    router_queue_timeout_s: float = option(
        _KV.queue_timeout_s, _ONLY_KV + "seconds that a request without a deadline waits", least=0.001, tier=Tier.BETA
    )
    router_policy_classes: str | None = option(
        None, _ONLY_KV + 'lines of their own to wait in, as JSON: [{"name": "batch", "quantum": 4096}]', tier=Tier.BETA
    )
    router_policy: str | None = option(
        None, _ONLY_KV + "a policy of your own in place of the cost, as MODULE:NAME", tier=Tier.BETA
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.router_config()  # checks it

    def router_config(self) -> RouterConfig:
        """Return what these options say. Raises `ConfigError` for one that this mode has no use for."""
        mode = RouterMode(self.router_mode)
        if mode is not RouterMode.KV:
            self._refuse_kv_options(mode)
        config = RouterConfig(
            mode,
            KvRouterConfig.from_fields(self._kv_fields()) if mode is RouterMode.KV else None,
            self.active_decode_blocks_threshold,
            self.active_prefill_tokens_threshold,
            self.active_prefill_tokens_threshold_frac,
            self.router_session_affinity_ttl_secs,
            "soft" if self.router_session_affinity_mode == "soft" else "hard",
        )
        check_router_config(config)
        return config

    def _kv_fields(self) -> dict[str, object]:
        given = {kv_name: getattr(self, name) for name, kv_name in _KV_NAMES.items()}
        classes = given.pop("policy_classes")
        if classes is not None:
            try:
                given["policy_classes"] = msgspec.json.decode(classes)
            except msgspec.DecodeError as error:
                raise ConfigError(
                    f"router_policy_classes is no JSON: {error}", setting="router_policy_classes"
                ) from error
        return given

    def _refuse_kv_options(self, mode: RouterMode) -> None:
        for declared in fields(self):
            if declared.name in _KV_NAMES and getattr(self, declared.name) != declared.default:
                flag = "--" + declared.name.replace("_", "-")
                raise ConfigError(
                    f"{flag} is for the router mode kv, and this one is {mode.value}: add --router-mode=kv",
                    setting=declared.name,
                )


def router_fields(router: str | Mapping[str, object]) -> dict[str, object]:
    """Return the fields of `RouterSettings` that a configuration gives: a mode, or `mode` and other options by name.

    The names are those of the flags; `router_` may be left out. Raises `ConfigError` for one that is unknown.
    """
    if isinstance(router, str):
        return {"router_mode": router}
    names = {declared.name for declared in fields(RouterSettings)}
    given: dict[str, object] = {}
    for key, value in router.items():
        name = str(key).replace("-", "_")
        name = name if name in names else f"router_{name}"
        if name not in names:
            known = sorted(one.removeprefix("router_") for one in names)
            close = difflib.get_close_matches(name.removeprefix("router_"), known, n=1)
            hint = f"did you mean {close[0]!r}? it has" if close else "it has"
            raise ConfigError(f"the router has no option {key!r}; {hint} {', '.join(known)}", setting="router")
        given[name] = value
    return given


def _kv_names() -> dict[str, str]:
    """The fields here that are options of the KV router, with their names there."""
    kv_names = {declared.name for declared in fields(KvRouterConfig)}
    names = {}
    for declared in fields(RouterSettings):
        for kv_name in (declared.name, declared.name.removeprefix("router_")):
            if kv_name in kv_names:
                names[declared.name] = kv_name
    return names


_KV_NAMES = _kv_names()
