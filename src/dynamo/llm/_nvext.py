"""The field `nvext` of a request: what it asks of the router, beside the OpenAI API.

The names are those of Dynamo 1.6, whose other fields are known here and not served; `explain` and
`router_config_override` are our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from dynamo._core.stability import beta
from dynamo.llm._kv_router.kv_config import FACTOR_MAX
from dynamo.llm._routing import RouterConfigOverride, RoutingConstraints
from dynamo.llm._wishes import DP_RANK_MAX as DP_RANK_MAX
from dynamo.llm._wishes import INSTANCE_ID_MAX as INSTANCE_ID_MAX
from dynamo.llm._wishes import PRIORITY_MAX as PRIORITY_MAX
from dynamo.llm._wishes import STRICT_PRIORITY_MAX as STRICT_PRIORITY_MAX
from dynamo.llm._wishes import WEIGHT_MAX as WEIGHT_MAX
from dynamo.llm._worker_labels import TAINT_CHARS_MAX, TAINTS_MAX

CACHE_SALT_CHARS_MAX = 128
#: vLLM hands salts on to other caches, which make names of files and keys of them.
_NOT_IN_SALTS = frozenset("@/\\\0")

_INSTANCE_ID = re.compile(r"0x[0-9a-f]{1,16}|[0-9]{1,20}", re.IGNORECASE)


def _read_instance_id(given: object) -> object:
    """Read an id in a text: languages whose numbers are floats cannot send it as a number."""
    if not isinstance(given, str):
        return given
    if not _INSTANCE_ID.fullmatch(given):
        raise ValueError("as a text, an instance id is a whole number, or hexadecimal digits behind 0x")
    return int(given, 16 if given[:2].lower() == "0x" else 10)


InstanceId = Annotated[int, BeforeValidator(_read_instance_id), Field(ge=0, le=INSTANCE_ID_MAX)]
Taint = Annotated[str, Field(min_length=1, max_length=TAINT_CHARS_MAX)]
Weight = Annotated[float, Field(ge=-WEIGHT_MAX, le=WEIGHT_MAX)]
Factor = Annotated[float, Field(ge=0, le=FACTOR_MAX)]


def _check_salt(salt: str) -> str:
    if not _NOT_IN_SALTS.isdisjoint(salt):
        raise ValueError("'@', '/', '\\' and NUL are not for salts")
    return salt


CacheSalt = Annotated[str, Field(min_length=1, max_length=CACHE_SALT_CHARS_MAX), AfterValidator(_check_salt)]


@beta(since="0.1")
class AgentHints(BaseModel):
    """What an agent knows of its request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    #: So many seconds earlier it counts as having come, where requests wait.
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] | None = None
    strict_priority: Annotated[int, Field(ge=0, le=STRICT_PRIORITY_MAX)] | None = None

    osl: JsonValue = None
    speculative_prefill: JsonValue = None


@beta(since="0.1")
class Constraints(BaseModel):
    """Which workers a request wants, by their taints; see `RoutingConstraints`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    required_taints: Annotated[list[Taint], Field(max_length=TAINTS_MAX)] = []
    preferred_taints: Annotated[dict[Taint, Weight], Field(max_length=TAINTS_MAX)] = {}


@beta(since="0.1")
class ConfigOverride(BaseModel):
    """What one request wants otherwise than the KV router's configuration; see `RouterConfigOverride`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlap_score_credit: Factor | None = None
    prefill_load_scale: Factor | None = None
    router_temperature: Factor | None = None
    assume_kv_reuse: bool | None = None
    track_prefill_tokens: bool | None = None


@beta(since="0.1")
class NvExt(BaseModel):
    """What a request asks beside the OpenAI API."""

    model_config = ConfigDict(extra="forbid", strict=True)

    #: Fields that are known but not served, each with the values that ask for nothing.
    UNSERVED: ClassVar[Mapping[str, tuple[JsonValue, ...]]] = {
        "agent_hints.osl": (),
        "agent_hints.speculative_prefill": (False,),
        "annotations": ([],),
        "decode_worker_id": (),
        "extra_fields": ([],),
        "greed_sampling": (False,),
        "max_thinking_tokens": (),
        "metadata_upload": (),
        "prefill_dp_rank": (),
        "prefill_worker_id": (),
        "request_timestamp_ms": (),
        "router": ({},),
        "token_data": (),
        "use_raw_prompt": (False,),
    }

    backend_instance_id: InstanceId | None = None
    dp_rank: Annotated[int, Field(ge=0, le=DP_RANK_MAX)] | None = None
    agent_hints: AgentHints | None = None
    routing_constraints: Constraints | None = None
    router_config_override: ConfigOverride | None = None
    explain: bool | None = None
    #: Only requests with the same one share a cache.
    cache_salt: CacheSalt | None = None

    annotations: JsonValue = None
    decode_worker_id: JsonValue = None
    extra_fields: JsonValue = None
    greed_sampling: JsonValue = None
    max_thinking_tokens: JsonValue = None
    metadata_upload: JsonValue = None
    prefill_dp_rank: JsonValue = None
    prefill_worker_id: JsonValue = None
    request_timestamp_ms: JsonValue = None
    router: JsonValue = None
    token_data: JsonValue = None
    use_raw_prompt: JsonValue = None

    def unserved(self) -> dict[str, JsonValue]:
        """Return the fields that were sent and are not served, with their values."""
        sent = {name: getattr(self, name) for name in self.model_fields_set}
        hints = self.agent_hints
        if hints is not None:
            sent |= {f"agent_hints.{name}": getattr(hints, name) for name in hints.model_fields_set}
        return {name: value for name, value in sent.items() if name in self.UNSERVED}

    def hints(self) -> dict[str, object]:
        """Return what it says of where the request is to go: fields of `RoutingHints`; None: nothing."""
        hints = self.agent_hints or AgentHints()
        constraints, override = self.routing_constraints, self.router_config_override
        return {
            "pinned_instance": self.backend_instance_id,
            "pinned_dp_rank": self.dp_rank,
            "priority_jump": None if hints.priority is None else float(hints.priority),
            "strict_priority": hints.strict_priority,
            "constraints": None
            if constraints is None
            else RoutingConstraints(frozenset(constraints.required_taints), constraints.preferred_taints),
            "override": None if override is None else RouterConfigOverride(**override.model_dump()),
        }
