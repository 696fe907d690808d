"""Is discovery there, and what does it say: one look, which the other checks use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from dynamo._core._shown_url import without_password
from dynamo._core.address import (
    EVENT_PLANES,
    INSTANCES,
    MODEL_CARDS,
    REGISTRATIONS,
    WORK_QUEUES,
    EndpointId,
    event_plane_kind,
    parse_key,
)
from dynamo._core.discovery import Discovery
from dynamo._core.errors import DynamoError
from dynamo.cli._doctor_finding import Finding, ok, warn
from dynamo.llm._model_card import ModelCard
from dynamo.llm._registration import Registration
from dynamo.runtime._instances import InstanceRecord

T = TypeVar("T")

#: An answer that takes so long is on its way to none.
SLOW_S = 1.0
#: So many keys that make no sense are named.
NAMED_MAX = 3

_Worker = tuple[EndpointId, int]


@dataclass
class Seen:
    """What is registered."""

    url: str
    instances: dict[_Worker, InstanceRecord] = field(default_factory=dict)
    cards: dict[_Worker, ModelCard] = field(default_factory=dict)
    registrations: list[Registration] = field(default_factory=list)
    #: The kinds of event planes in use, and the names of the work queues that are served by processes of ours.
    event_planes: set[str] = field(default_factory=set)
    num_queues: int = 0
    #: Keys that are not what they should be.
    unreadable: list[str] = field(default_factory=list)


async def look_at_discovery(url: str, discovery: Discovery) -> tuple[Seen, list[Finding]]:
    """Read what is registered. Raises `DynamoError` if discovery does not answer."""
    seen, clock = Seen(without_password(url)), asyncio.get_running_loop().time
    began = clock()
    instances = await discovery.get_prefix(INSTANCES)
    took_s = clock() - began
    _read_all(seen, instances, lambda value: msgspec.json.decode(value, type=InstanceRecord), seen.instances)
    _read_all(seen, await discovery.get_prefix(MODEL_CARDS), ModelCard.from_json, seen.cards)
    for key, value in (await discovery.get_prefix(REGISTRATIONS)).items():
        try:
            seen.registrations.append(Registration.from_json(value))
        except DynamoError:
            seen.unreadable.append(key)
    seen.event_planes = set(map(event_plane_kind, await discovery.get_prefix(EVENT_PLANES)))
    seen.num_queues = len(await discovery.get_prefix(WORK_QUEUES))
    return seen, _findings(seen, took_s, discovery)


def _findings(seen: Seen, took_s: float, discovery: Discovery) -> list[Finding]:
    findings = []
    told = f"{seen.url} answered in {took_s * 1000:.0f} ms"
    if discovery.status.is_degraded:
        remedy = "see to its servers: until then nobody sees who comes and goes"
        findings.append(warn("discovery", f"{told}, and is degraded: {discovery.status.reason}", remedy))
    elif took_s > SLOW_S:
        findings.append(warn("discovery", told, "see why it takes so long: everybody waits for it at the start"))
    else:
        findings.append(ok("discovery", told))
    if seen.unreadable:
        named = ", ".join(seen.unreadable[:NAMED_MAX]) + (", ..." if len(seen.unreadable) > NAMED_MAX else "")
        what = f"{len(seen.unreadable)} entries are not what they should be, and ignored: {named}"
        findings.append(warn("discovery", what, "see which program writes them, perhaps of another release"))
    return findings


def _read_all(seen: Seen, values: Mapping[str, bytes], read: Callable[[bytes], T], into: dict[_Worker, T]) -> None:
    for key, value in values.items():
        try:
            into[parse_key(key)] = read(value)
        except (DynamoError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            seen.unreadable.append(key)
