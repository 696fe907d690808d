"""Who publishes through another kind of event plane is not heard: whoever comes second is told.

Each process that uses events has a key in discovery that names its kind, from its first event or subscription to its
end. It looks once at those of the others, and warns if some use another kind. It is a hint: if discovery is away just
then, nobody is told.
"""

from __future__ import annotations

import logging

from dynamo._core.address import EVENT_PLANES, event_plane_key, event_plane_kind
from dynamo._core.discovery import Discovery, Lease
from dynamo._core.errors import DynamoError
from dynamo._core.event_plane import EventPlane

logger = logging.getLogger(__name__)

# One within a process is shared by whoever is given it.
_KINDS = {"zmq": "zmq", "nats": "nats", "tls": "nats"}


def event_plane_kind_of(at: str | EventPlane) -> str | None:
    """The kind that others have to use, too; None if there are no others."""
    return _KINDS.get(at.partition(":")[0]) if isinstance(at, str) else None


async def tell_event_plane(kind: str, discovery: Discovery, lease: Lease) -> None:
    """Say which kind this process uses, and warn if others use another one."""
    try:
        await discovery.put(event_plane_key(kind, lease.id), b"", lease)
        others = {event_plane_kind(key) for key in await discovery.get_prefix(EVENT_PLANES)} - {kind}
    except (DynamoError, OSError) as error:
        logger.info("whether others use another event plane is not known: %s", error)
        return
    if others:
        logger.warning(
            "this process publishes and listens through %s, and others do through %s: they do not hear each other; set "
            "DYN_EVENT_PLANE, or NATS_SERVER, alike everywhere",
            kind,
            ", ".join(sorted(others)),
        )
