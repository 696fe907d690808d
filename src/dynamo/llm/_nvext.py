"""The field `nvext` of a request: what it asks of the router, beside the OpenAI API.

The names are those of Dynamo 1.6, whose other fields are known here and not served; `explain` and
`router_config_override` are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dynamo.llm._routing import RouterConfigOverride, RoutingConstraints

INSTANCE_ID_MAX = 2**64 - 1
DP_RANK_MAX = 1023
PRIORITY_MAX = 2**31 - 1
STRICT_PRIORITY_MAX = 2**32 - 1
TAINT_CHARS_MAX = 256
TAINTS_MAX = 64
WEIGHT_MAX = 100.0

Taint = Annotated[str, Field(min_length=1, max_length=TAINT_CHARS_MAX)]
Weight = Annotated[float, Field(ge=-WEIGHT_MAX, le=WEIGHT_MAX)]
NotNegative = Annotated[float, Field(ge=0)]


class AgentHints(BaseModel):
    """What an agent knows of its request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    #: So many seconds earlier it counts as having come, where requests wait.
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] | None = None
    strict_priority: Annotated[int, Field(ge=0, le=STRICT_PRIORITY_MAX)] | None = None

    osl: JsonValue = None
    speculative_prefill: JsonValue = None


class Constraints(BaseModel):
    """Which workers a request wants, by their taints; see `RoutingConstraints`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    required_taints: Annotated[list[Taint], Field(max_length=TAINTS_MAX)] = []
    preferred_taints: Annotated[dict[Taint, Weight], Field(max_length=TAINTS_MAX)] = {}


class ConfigOverride(BaseModel):
    """What one request wants otherwise than the KV router's configuration; see `RouterConfigOverride`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlap_score_credit: NotNegative | None = None
    prefill_load_scale: NotNegative | None = None
    router_temperature: NotNegative | None = None
    assume_kv_reuse: bool | None = None
    track_prefill_tokens: bool | None = None


class NvExt(BaseModel):
    """What a request asks beside the OpenAI API."""

    model_config = ConfigDict(extra="forbid", strict=True)

    #: Fields that are known but not served, each with the values that ask for nothing.
    UNSERVED: ClassVar[Mapping[str, tuple[JsonValue, ...]]] = {
        "agent_hints.osl": (),
        "agent_hints.speculative_prefill": (False,),
        "annotations": ([],),
        "cache_salt": (),
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

    backend_instance_id: Annotated[int, Field(ge=0, le=INSTANCE_ID_MAX)] | None = None
    dp_rank: Annotated[int, Field(ge=0, le=DP_RANK_MAX)] | None = None
    agent_hints: AgentHints | None = None
    routing_constraints: Constraints | None = None
    router_config_override: ConfigOverride | None = None
    explain: bool | None = None

    annotations: JsonValue = None
    cache_salt: JsonValue = None
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
