"""What a request says of where it is to go, as it is told to a router in another process.

Whoever reads one of these from outside refuses what is beyond the limits here: those of a frontend's `nvext`. What is
no number is beyond all of them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dynamo._core.stability import beta
from dynamo.llm._worker_labels import TAINT_CHARS_MAX, TAINTS_MAX

#: msgspec knows no limit of this size; an id above it is nobody's.
INSTANCE_ID_MAX = 2**64 - 1
DP_RANK_MAX = 1023
PRIORITY_MAX = 2**31 - 1
STRICT_PRIORITY_MAX = 2**32 - 1
WEIGHT_MAX = 100.0
#: Of the name of a session, or of a policy class.
NAME_CHARS_MAX = 256

Taint = Annotated[str, Meta(min_length=1, max_length=TAINT_CHARS_MAX)]
Weight = Annotated[float, Meta(ge=-WEIGHT_MAX, le=WEIGHT_MAX)]
InstanceId = Annotated[int, Meta(ge=0)]
DpRank = Annotated[int, Meta(ge=0, le=DP_RANK_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]


@beta(since="0.1")
class RoutingConstraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which workers a request wants, by their taints: the labels that workers carry in their model cards."""

    #: Workers without all of these do not come into question.
    required_taints: Annotated[frozenset[Taint], Meta(max_length=TAINTS_MAX)] = frozenset()
    #: Workers with one of these are dearer or cheaper by its weight: 1.0 about halves the cost.
    preferred_taints: Annotated[dict[Taint, Weight], Meta(max_length=TAINTS_MAX)] = {}


@beta(since="0.1")
class RouterConfigOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one request wants otherwise than the router's configuration says; None leaves it as it is.

    The fields are those of `KvRouterConfig`, and mean what they mean there.
    """

    overlap_score_credit: float | None = None
    prefill_load_scale: float | None = None
    router_temperature: float | None = None
    assume_kv_reuse: bool | None = None
    track_prefill_tokens: bool | None = None


NO_CONSTRAINTS = RoutingConstraints()


@beta(since="0.1")
class Wishes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request says of where it is to go."""

    #: The worker, and the rank, that must take it.
    backend_instance_id: InstanceId | None = None
    dp_rank: DpRank | None = None
    #: So many seconds earlier it counts as having come, where requests wait.
    priority: Annotated[float, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0.0
    #: Where requests wait, those of a higher one go first.
    strict_priority: Annotated[int, Meta(ge=0, le=STRICT_PRIORITY_MAX)] = 0
    policy_class: Name | None = None
    session_id: Name | None = None
    routing_constraints: RoutingConstraints = NO_CONSTRAINTS


NO_WISHES = Wishes()
