"""Requests that wait in a line of their own."""

from __future__ import annotations

from typing import Literal

import msgspec

from dynamo._core.stability import beta
from dynamo.llm._kv_router.checks import check, check_choice, is_whole
from dynamo.llm._numbers import shown

QueuePolicy = Literal["fcfs", "lcfs", "wspt"]
QUEUE_POLICIES = ("fcfs", "lcfs", "wspt")


@beta(since="0.1")
class PolicyClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that wait in a line of their own, chosen by the policy class that they name.

    Raises `ConfigError`, which names the class and the field, for a value that makes no sense.
    """

    #: What requests call it; "default" is the line of those that name none.
    name: str
    #: The order in this line; None: the router's `queue_policy`.
    queue_policy: QueuePolicy | None = None
    #: The share of this line: so many new tokens go each time that it is its turn.
    quantum: int = 8192
    #: So many requests, or new tokens, may wait for each worker that there is; None: as many as the router takes.
    waiting_requests_limit_per_worker: int | None = None
    waiting_tokens_limit_per_worker: int | None = None

    def __post_init__(self) -> None:
        where = f"policy class {shown(self.name)}"
        check(isinstance(self.name, str) and bool(self.name), f"{where}: name is a str that is not empty")
        check(
            is_whole(self.quantum) and self.quantum >= 1,
            f"{where}: quantum is {shown(self.quantum)}; it is a number of tokens, at least 1",
        )
        if self.queue_policy is not None:
            check_choice("queue_policy", self.queue_policy, QUEUE_POLICIES)
        for name in ("waiting_requests_limit_per_worker", "waiting_tokens_limit_per_worker"):
            value = getattr(self, name)
            check(
                value is None or (is_whole(value) and value >= 1),
                f"{where}: {name} is {shown(value)}; it must be an integer of at least 1, or be left out",
            )
