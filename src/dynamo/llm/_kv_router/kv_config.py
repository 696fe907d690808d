"""The options of the KV router, with the names of Dynamo 1.6, and all but three of its defaults.

Those three weigh the cost, and `share_overlap_score_credit` is not in 1.6; see `cost.py`. They are thought of in time,
as a GPU takes it, and replays of traces (`docs/replay.md`) come out much the same with half and with twice of each:

- To compute a block takes about four times as long as to read it again at each step of an answer of 200 tokens:
  `prefill_load_scale` is 4, not 1.
- What only one worker has cached is best used there, or this request waits, and those behind it, and the next ones
  that it would be of use to: `overlap_score_credit` is 3, not 1.
- An answer takes its part of every step, 300 tokens about as much as ten blocks that are computed:
  `decode_active_request_weight` is 50, not 0.

Options of that version which have no meaning here are refused with the reason: an option that does nothing would be
taken for one that works.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar, dataclass
from functools import lru_cache
from typing import Literal, get_type_hints

import msgspec

from dynamo._core.errors import ConfigError
from dynamo.llm._numbers import is_number, shown
from dynamo.llm._routing import RouterConfigOverride

QueuePolicy = Literal["fcfs", "lcfs", "wspt"]
CachePolicy = Literal["ttl", "lru"]

#: Requests that wait in one router; those beyond it are refused.
QUEUE_SIZE_MAX = 10_000
#: What costs are made of is no higher, so that they stay numbers.
FACTOR_MAX = 1e6


class PolicyClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that wait in a line of their own, chosen by the policy class that they name."""

    name: str
    #: The order in this line; None: the router's `queue_policy`.
    queue_policy: QueuePolicy | None = None
    #: The share of this line: so many new tokens go each time that it is its turn.
    quantum: int = 8192
    #: So many requests, or new tokens, may wait for each worker that there is; None: as many as the router takes.
    waiting_requests_limit_per_worker: int | None = None
    waiting_tokens_limit_per_worker: int | None = None

    def __post_init__(self) -> None:
        where = f"policy class {self.name!r}"
        check(bool(self.name), "a policy class needs a name")
        check(self.quantum >= 1, f"{where}: quantum is {self.quantum}; it is a number of tokens, at least 1")
        check_choice("queue_policy", self.queue_policy or "fcfs", ("fcfs", "lcfs", "wspt"))
        for name in ("waiting_requests_limit_per_worker", "waiting_tokens_limit_per_worker"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"{where}: {name} is {value}; it must be at least 1, or be left out")


@dataclass(frozen=True)
class KvRouterConfig:
    """How the KV router weighs workers, what it counts, and when requests wait.

    The cost of a worker is `prefill_load_scale` times the blocks that it would have to compute, those of requests
    before included, plus the blocks that it would hold while it generates, plus `decode_active_request_weight` times
    its requests. The cheapest one is taken.
    """

    #: The older name of two options: sets `prefill_load_scale`, and with 0 `overlap_score_credit` to 0, too.
    overlap_score_weight: InitVar[float | None] = None
    #: Of blocks in host memory and on disk, which this router does not know: only the default is accepted.
    host_cache_hit_weight: float = 0.75
    disk_cache_hit_weight: float = 0.25
    #: 0: the cheapest worker. Above it workers are drawn, the cheaper the likelier: the higher, the more evenly.
    router_temperature: float = 0.0
    #: Whether the workers' own events tell which blocks they hold. If not, the router remembers where it sent what.
    use_kv_events: bool = True
    _: KW_ONLY
    #: How often a block counts that is to be computed, and that another worker has cached; 0 ignores the caches.
    overlap_score_credit: float = 3.0
    #: Whether that is divided by the number of workers that have it. If not, all is counted as Dynamo 1.6 does.
    share_overlap_score_credit: bool = True
    #: How fast that credit falls as a worker has more prompts to compute than the least busy one; 0: never.
    overlap_score_credit_decay: float = 0.0
    #: What a block to compute costs, where a block to hold while generating costs 1.
    prefill_load_scale: float = 4.0
    #: What each request costs that a worker has already, in blocks.
    decode_active_request_weight: float = 50.0
    #: Without events: forget what was sent somewhere after `router_ttl_secs`, or once the worker's cache is full.
    approximate_cache_policy: CachePolicy = "ttl"
    router_ttl_secs: float = 120.0
    #: With events: for so long, take for granted that a worker holds what was sent there; None: wait for its event.
    predicted_ttl_secs: float | None = None
    #: Tell the other routers of these workers which requests run where, and hear it from them.
    router_replica_sync: bool = False
    #: Whether blocks held while generating count.
    router_track_active_blocks: bool = True
    #: Whether the blocks of generated tokens count among them.
    router_track_output_blocks: bool = False
    #: Whether blocks that several requests of one worker share count once.
    router_assume_kv_reuse: bool = True
    #: Whether prompts that are being computed count. If not, only blocks held while generating do.
    router_track_prefill_tokens: bool = True
    #: Requests wait while each worker has more than this times its `max_num_batched_tokens` to compute; None: never.
    queue_threshold: float | None = None
    #: Who goes first: who came first, who came last, or who has the least to compute.
    queue_policy: QueuePolicy = "fcfs"
    queue_size_max: int = QUEUE_SIZE_MAX
    #: A request without a deadline waits for so long.
    queue_timeout_s: float = 300.0
    policy_classes: tuple[PolicyClass, ...] = ()
    #: `module:name` of a policy in Python, which takes the place of the cost (`policy.py`).
    policy: str | None = None

    def __post_init__(self, overlap_score_weight: float | None) -> None:
        if overlap_score_weight is not None:
            self._set_overlap_score_weight(overlap_score_weight)
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            is_right = is_number(value) and 0 <= value <= FACTOR_MAX
            check(is_right, f"{name} is {shown(value)}; it must be a number from 0 to {FACTOR_MAX:g}")
        for name in _POSITIVE:
            value = getattr(self, name)
            check(
                (value is None and name in _OPTIONAL) or (is_number(value) and value > 0),
                f"{name} is {shown(value)}; it must be a number above 0",
            )
        for name, only in (("host_cache_hit_weight", 0.75), ("disk_cache_hit_weight", 0.25)):
            check(getattr(self, name) == only, f"{name} cannot be set: only blocks on the device are known here")
        check_choice("approximate_cache_policy", self.approximate_cache_policy, ("ttl", "lru"))
        check_choice("queue_policy", self.queue_policy, ("fcfs", "lcfs", "wspt"))
        if self.approximate_cache_policy == "lru":
            check(not self.use_kv_events, "approximate_cache_policy lru is for use_kv_events=False: there are events")
        if self.predicted_ttl_secs is not None:
            check(self.use_kv_events, "predicted_ttl_secs is for use_kv_events=True; set router_ttl_secs instead")
        names = [one.name for one in self.policy_classes]
        check(len(set(names)) == len(names), f"policy_classes names a class twice: {names}")

    def _set_overlap_score_weight(self, weight: float) -> None:
        warnings.warn(
            "overlap_score_weight is deprecated; set prefill_load_scale, and overlap_score_credit=0 to ignore caches",
            DeprecationWarning,
            stacklevel=4,
        )
        object.__setattr__(self, "prefill_load_scale", weight)
        if weight == 0:
            object.__setattr__(self, "overlap_score_credit", 0.0)

    @classmethod
    def from_json(cls, text: str | bytes) -> KvRouterConfig:
        """Read a JSON object of these options. Raises `ConfigError` for one that is unknown, and for a wrong value."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"the router's configuration is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"the router's configuration is a JSON object, not {type(fields).__name__}")
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> KvRouterConfig:
        """Make a configuration of options by name; otherwise like `from_json`."""
        given: dict[str, object] = {}
        for name, value in fields.items():
            if name in _LEGACY:
                warnings.warn(f"{name} has no effect any more; leave it out", DeprecationWarning, stacklevel=3)
            else:
                field_name = _UNPREFIXED.get(name, name)
                given[field_name] = _converted(field_name, value)
        return cls(**given)  # type: ignore[arg-type]  # _converted has checked each

    def copy(self) -> KvRouterConfig:
        """Return an equal configuration."""
        return dataclasses.replace(self)

    def with_overrides(self, overrides: RouterConfigOverride | None = None, **fields: object) -> KvRouterConfig:
        """Return this configuration with some options changed."""
        if overrides is not None:
            given = {name: value for name, value in msgspec.structs.asdict(overrides).items() if value is not None}
            fields = {**{_UNPREFIXED.get(name, name): value for name, value in given.items()}, **fields}
        converted = {name: _converted(name, value) for name, value in fields.items()}
        return dataclasses.replace(self, **converted)  # type: ignore[arg-type]  # _converted has checked each


_NOT_NEGATIVE = (
    "router_temperature", "overlap_score_credit", "overlap_score_credit_decay", "prefill_load_scale",
    "decode_active_request_weight",
)  # fmt: skip
_POSITIVE = ("router_ttl_secs", "predicted_ttl_secs", "queue_threshold", "queue_size_max", "queue_timeout_s")
_OPTIONAL = ("predicted_ttl_secs", "queue_threshold")
_UNPREFIXED = {
    name: f"router_{name}"
    for name in (
        "track_active_blocks", "track_output_blocks", "assume_kv_reuse", "track_prefill_tokens", "replica_sync",
        "temperature", "ttl_secs",
    )
} | {"router_queue_threshold": "queue_threshold", "router_queue_policy": "queue_policy"}  # fmt: skip
#: Accepted by 1.6 from older files, without effect there as here.
_LEGACY = ("durable_kv_events", "router_snapshot_threshold", "router_reset_states", "skip_initial_worker_wait")
_REFUSED = {
    "event_threads": "events are applied on the event loop, in slices",
    "router_event_threads": "events are applied on the event loop, in slices",
    "tracking_hash": "blocks are tracked by public-xxh3-v1 hashes only",
    "tracking_key_file": "blocks are tracked by public-xxh3-v1 hashes only",
    "tracking_key_id": "blocks are tracked by public-xxh3-v1 hashes only",
    "prefill_load_model": "a prompt counts as a whole until its first token: there is no model of its progress",
    "serve_indexer": "each router has an index of its own, which it asks the workers for",
    "use_remote_indexer": "each router has an index of its own, which it asks the workers for",
    "enable_session_prefix_index": "sessions are kept by session_affinity_ttl_secs",
    "shared_cache_type": "caches that workers share are not known to this router",
    "shared_cache_multiplier": "caches that workers share are not known to this router",
    "conditional_disagg": "where prompts are computed elsewhere is not decided by the router",
    "router_policy_config": "give policy_classes for queues, and policy for a choice of your own",
    "prefill_policy": "give policy, a function in Python",
    "decode_policy": "give policy, a function in Python",
}


def _converted(name: str, value: object) -> object:
    """Return the value of an option, which comes from a file or from somebody's keyword arguments."""
    if name in _REFUSED:
        raise ConfigError(f"{name} cannot be set: {_REFUSED[name]}", setting=name)
    types = _types()
    if name not in types:
        raise ConfigError(f"the KV router has no option {name!r}; it has {', '.join(sorted(types))}", setting=name)
    try:
        return msgspec.convert(value, types[name])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name} is {shown(value)}: {error}", setting=name) from error


@lru_cache(maxsize=1)
def _types() -> dict[str, object]:
    """The type of each option."""
    hints = get_type_hints(KvRouterConfig)
    return {name: hint.type if isinstance(hint, InitVar) else hint for name, hint in hints.items() if name != "_"}


def check(is_right: bool, message: str) -> None:
    if not is_right:
        raise ConfigError(message)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    check(value in choices, f"{name} is {value!r}; it is one of {', '.join(choices)}")
