"""Why requests went where they went: in the answer of one that asked for it, and for those who ask afterwards.

In a stream it is a comment, which every reader of server-sent events ignores: `: dynamo-explain {"decisions": [...]}`,
before the first event, and again after a request has moved. In a whole answer it is the field `nvext`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from dynamo._core.errors import InvalidArgument, NotFound
from dynamo.llm._limits import CHOICES_MAX
from dynamo.llm._routing import Router

#: So many decisions are shown at most.
SHOWN_MAX = 100
_DIGITS_MAX = len(str(SHOWN_MAX))


class Routers(Protocol):
    """The models that can be asked, and their routers."""

    def routers(self) -> dict[str, Router]:
        """The router of each model that has one."""

    def router_warnings(self) -> list[str]:
        """What is wrong with routing now, in a sentence each."""


def comment_of(decisions: Sequence[object]) -> bytes:
    """Return the decisions on a request as a comment in a stream."""
    return b"dynamo-explain " + msgspec.json.encode({"decisions": decisions})


def with_decisions(answer: bytes, decisions: Sequence[object]) -> bytes:
    """Return a whole answer with the decisions on its request."""
    fields = msgspec.json.decode(answer, type=dict[str, object])
    nvext = fields.get("nvext")
    fields["nvext"] = {**(nvext if isinstance(nvext, dict) else {}), "explain": {"decisions": decisions}}
    return msgspec.json.encode(fields)


def decisions_on(models: Routers, request_id: str) -> bytes:
    """Return the decisions on a request, one for each of its choices, as JSON. Raises `NotFound` if none is known."""
    for model, router in models.routers().items():
        if found := _of_request(router, request_id):
            return msgspec.json.encode({"request_id": request_id, "model": model, "decisions": found})
    raise NotFound(
        f"no decision is known on a request {request_id[:128]!r}: only the last ones on each model are kept, until its "
        "last worker leaves, and none where workers are asked in turn or the request was given none; a `python -m "
        "dynamo.router` tells its own at its endpoint `explain`",
        param="request_id",
    )


def recent_decisions(models: Routers, limit: str) -> bytes:
    """Return the last decisions of all routers, the most recent of each first, as JSON."""
    is_number = len(limit) <= _DIGITS_MAX and limit.isascii() and limit.isdigit()
    if not is_number or not 1 <= int(limit) <= SHOWN_MAX:
        raise InvalidArgument(f"limit must be a whole number from 1 to {SHOWN_MAX}, not {limit[:32]!r}", param="limit")
    found = [
        {"model": model, "decision": decision}
        for model, router in models.routers().items()
        for decision in router.decisions.recent(int(limit))
    ]
    return msgspec.json.encode({"decisions": found[: int(limit)], "warnings": models.router_warnings()})


def _of_request(router: Router, request_id: str) -> list[object]:
    recent = router.decisions
    if (one := recent.get(request_id)) is not None:
        return [one]
    several = [recent.get(f"{request_id}-{index}") for index in range(CHOICES_MAX)]
    return [decision for decision in several if decision is not None]
