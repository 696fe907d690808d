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
import difflib
import json
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_type_hints

import msgspec

from dynamo._core.errors import ConfigError
from dynamo._core.stability import beta
from dynamo.llm._kv_router.checks import check, check_choice, is_whole
from dynamo.llm._kv_router.policy_class import QUEUE_POLICIES, PolicyClass, QueuePolicy
from dynamo.llm._numbers import is_number, shown
from dynamo.llm._routing import RouterConfigOverride

CachePolicy = Literal["ttl", "lru"]

#: Requests that wait in one router; those beyond it are refused.
QUEUE_SIZE_MAX = 10_000
#: What costs are made of is no higher, so that they stay numbers.
FACTOR_MAX = 1e6


@beta(since="0.1")
@dataclass(frozen=True)
class KvRouterConfig:
    """How the KV router weighs workers, what it counts, and when requests wait.

    The cost of a worker is `prefill_load_scale` times the blocks that it would have to compute, those of requests
    before included, plus the blocks that it would hold while it generates, plus `decode_active_request_weight` times
    its requests. The cheapest one is taken. The whole formula, and where it comes from, stands in `cost.py`.

    Raises `ConfigError` for an option that is unknown, with the one that is meant if there is one, for one that has no
    meaning here, with the reason, and for a value that makes no sense.
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
    #: Without events: forget what was sent somewhere after `router_ttl_secs` ("ttl"), or once the worker's cache is
    #: full ("lru").
    approximate_cache_policy: CachePolicy = "ttl"
    #: Seconds, above 0.
    router_ttl_secs: float = 120.0
    #: With events: for so many seconds, take for granted that a worker holds what was sent there; None: wait for its
    #: event.
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
    #: Who goes first: who came first ("fcfs"), who came last ("lcfs"), or who has the least to compute for its
    #: priority ("wspt").
    queue_policy: QueuePolicy = "fcfs"
    #: So many requests wait at most; those beyond it are refused.
    queue_size_max: int = QUEUE_SIZE_MAX
    #: A request without a deadline waits for so many seconds.
    queue_timeout_s: float = 300.0
    #: Lines of their own to wait in, beside the one that there always is.
    policy_classes: tuple[PolicyClass, ...] = ()
    #: `module:name` of a policy in Python, which takes the place of the cost (`policy.py`).
    policy: str | None = None

    if not TYPE_CHECKING:

        def __new__(cls, *args: object, **options: object) -> KvRouterConfig:
            """Refuse options that there are not, where Python itself would only say that it does not know them."""
            for name in options:
                _check_name(name)
            return super().__new__(cls)

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
        check(is_whole(self.queue_size_max), f"queue_size_max is {shown(self.queue_size_max)}; it must be an integer")
        for name in _BOOLEANS:
            value = getattr(self, name)
            check(isinstance(value, bool), f"{name} is {shown(value)}; it must be True or False")
        check(
            self.policy is None or isinstance(self.policy, str),
            f"policy is {shown(self.policy)}; it must be a str, MODULE:NAME (a function is given to KvRouter itself)",
        )
        check(
            isinstance(self.policy_classes, tuple | list)
            and all(isinstance(one, PolicyClass) for one in self.policy_classes),
            f"policy_classes is {shown(self.policy_classes)}; it must be a tuple of PolicyClass",
        )
        object.__setattr__(self, "policy_classes", tuple(self.policy_classes))
        for name, only in (("host_cache_hit_weight", 0.75), ("disk_cache_hit_weight", 0.25)):
            check(getattr(self, name) == only, f"{name} cannot be set: only blocks on the device are known here")
        check_choice("approximate_cache_policy", self.approximate_cache_policy, ("ttl", "lru"))
        check_choice("queue_policy", self.queue_policy, QUEUE_POLICIES)
        if self.approximate_cache_policy == "lru":
            check(not self.use_kv_events, "approximate_cache_policy lru is for use_kv_events=False: there are events")
        if self.predicted_ttl_secs is not None:
            check(self.use_kv_events, "predicted_ttl_secs is for use_kv_events=True; set router_ttl_secs instead")
        names = [one.name for one in self.policy_classes]
        check(len(set(names)) == len(names), f"policy_classes names a class twice: {names}")

    def _set_overlap_score_weight(self, weight: float) -> None:
        check(
            is_number(weight), f"overlap_score_weight is {shown(weight)}; it must be a number from 0 to {FACTOR_MAX:g}"
        )
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
        """Read a JSON object of these options, by their names here or those of Dynamo 1.6.

        Raises `ConfigError` for one that is unknown, with the one that is meant if there is one, for a wrong value, and
        for what is no JSON object.
        """
        check(isinstance(text, str | bytes | bytearray), f"text is {shown(text)}; it must be JSON as str or bytes")
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
        check(isinstance(fields, Mapping), f"fields is {shown(fields)}; it must be a mapping from names to values")
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
        """Return this configuration with some options changed, by those of a request that are set, and by name.

        Raises `ConfigError` as `from_fields` does.
        """
        if overrides is not None:
            check(
                isinstance(overrides, RouterConfigOverride),
                f"overrides is {shown(overrides)}; it must be a RouterConfigOverride, or options by name",
            )
            given = {name: value for name, value in msgspec.structs.asdict(overrides).items() if value is not None}
            fields = {**{_UNPREFIXED.get(name, name): value for name, value in given.items()}, **fields}
        converted = {name: _converted(name, value) for name, value in fields.items()}
        return dataclasses.replace(self, **converted)  # type: ignore[arg-type]  # _converted has checked each


_NOT_NEGATIVE = (
    "router_temperature", "overlap_score_credit", "overlap_score_credit_decay", "prefill_load_scale",
    "decode_active_request_weight",
)  # fmt: skip
_POSITIVE = ("router_ttl_secs", "predicted_ttl_secs", "queue_threshold", "queue_size_max", "queue_timeout_s")
_BOOLEANS = (
    "use_kv_events", "share_overlap_score_credit", "router_replica_sync", "router_track_active_blocks",
    "router_track_output_blocks", "router_assume_kv_reuse", "router_track_prefill_tokens",
)  # fmt: skip
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
    _check_name(name)
    try:
        return msgspec.convert(value, _types()[name])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name} is {shown(value)}: {error}", setting=name) from error


def _check_name(name: object) -> None:
    """Raise `ConfigError` for an option that there is not, with the one that is meant if there is one."""
    types = _types()
    if name in types:
        return
    if isinstance(name, str) and name in _REFUSED:
        raise ConfigError(f"{name} cannot be set: {_REFUSED[name]}", setting=name)
    close = difflib.get_close_matches(str(name), [*types, *_UNPREFIXED], n=1)
    meant = f"did you mean {_UNPREFIXED.get(close[0], close[0])!r}? " if close else ""
    raise ConfigError(
        f"the KV router has no option {shown(name)}; {meant}it has {', '.join(sorted(types))}", setting=str(name)
    )


@lru_cache(maxsize=1)
def _types() -> dict[str, object]:
    """The type of each option."""
    hints = get_type_hints(KvRouterConfig)
    return {name: hint.type if isinstance(hint, InitVar) else hint for name, hint in hints.items() if name != "_"}
