"""Names of things: endpoints, instances, and the keys under which discovery holds them.

This is the one place in which a key is spelled. A name is checked before it becomes part of a key,
and whatever a key could trip over (`/`, `.`, spaces) is percent-encoded in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from dynamo._core.errors import InvalidArgument
from dynamo._core.limits import SUBJECT_CHARS_MAX

INSTANCES = "v1/instances/"
MODEL_CARDS = "v1/mdc/"
EVENT_CHANNELS = "v1/event_channels/"
EVENT_PLANES = "v1/event_planes/"
WORK_QUEUES = "v1/work_queues/"
REGISTRATIONS = "v1/registrations/"


# As instance_key() writes it: two spellings of one id would be two keys of one instance.
_INSTANCE_ID = re.compile(r"0|[1-9a-f][0-9a-f]{0,15}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/:]{0,255}")
_SUBJECT = re.compile(r"[A-Za-z0-9_.:%-]+(?:/[A-Za-z0-9_.:%-]+)*")
# A subject's parts are NATS's tokens, so a dot within a part is something else there. No subject has a tilde.
_TO_NATS = str.maketrans({"/": ".", ".": "~"})
_TO_STREAM = str.maketrans("/\\.:", "____")


@dataclass(frozen=True, slots=True)
class EndpointId:
    """A callable name: `namespace/component/endpoint`."""

    namespace: str
    component: str
    endpoint: str

    def __post_init__(self) -> None:
        for kind, name in (("namespace", self.namespace), ("component", self.component), ("endpoint", self.endpoint)):
            check_name(kind, name)

    @classmethod
    def parse(cls, path: str) -> EndpointId:
        """Read `ns.comp.ep` or `ns/comp/ep`, with or without `dyn://` before it.

        Slashes part the names only where there are no dots: a name may have some of either.
        """
        name = path.removeprefix("dyn://")
        parts = name.split("." if "." in name else "/")
        if len(parts) != 3:
            raise InvalidArgument(f"{path!r} is not an endpoint: write namespace.component.endpoint", path=path)
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.component}/{self.endpoint}"

    @property
    def instances_prefix(self) -> str:
        """The prefix under which every instance of this endpoint is registered."""
        return f"{INSTANCES}{self._path}/"

    def instance_key(self, instance_id: int) -> str:
        """The key of one instance."""
        return f"{self.instances_prefix}{instance_id:x}"

    def model_card_key(self, instance_id: int) -> str:
        """The key of the model card that one instance registers."""
        return f"{MODEL_CARDS}{self._path}/{instance_id:x}"

    def event_subject(self, topic: str) -> str:
        """The subject of the events on `topic` that the instances of this endpoint publish."""
        return event_subject(topic, self.namespace, self.component, self.endpoint)

    @property
    def _path(self) -> str:
        return "/".join(quote(part, safe="") for part in (self.namespace, self.component, self.endpoint))


def parse_key(key: str) -> tuple[EndpointId, int]:
    """Return the endpoint and the instance id of an instance key or a model card key."""
    try:
        _, _, namespace, component, endpoint, instance_id = key.split("/")
        if not _INSTANCE_ID.fullmatch(instance_id):
            raise ValueError(f"{instance_id!r} is not an instance id")
        return EndpointId(unquote(namespace), unquote(component), unquote(endpoint)), int(instance_id, 16)
    except ValueError as error:
        raise InvalidArgument(f"{key[:300]!r} is not the key of an instance", key=key[:300]) from error


def registration_key(public_namespace: str, *kind_and_model: str) -> str:
    """The key of a model that a person registered; without `kind_and_model`, or with a kind only, a prefix of such."""
    parts = (public_namespace, *kind_and_model)
    return REGISTRATIONS + "/".join(quote(part, safe="") for part in parts) + ("/" if len(parts) < 3 else "")


def check_name(kind: str, name: str) -> None:
    """Raise `InvalidArgument` unless `name` is fit to be part of an address."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidArgument(
            f"{name[:300]!r} is not a valid {kind}: use letters, digits and _ . - / : (at most 256, no '..')",
            name=name[:300],
        )


def event_subject(topic: str, namespace: str, component: str | None = None, endpoint: str | None = None) -> str:
    """The subject of the events on `topic` of a namespace, a component, or an endpoint."""
    scope = ""
    for kind, name in (("namespace", namespace), ("component", component), ("endpoint", endpoint), ("topic", topic)):
        if name is not None:
            check_name(kind, name)
            scope += f"/{kind}/{quote(name, safe='')}"
    return scope[1:]


def check_subject(subject: str) -> None:
    """Raise `InvalidArgument` unless events can be published on `subject`."""
    if len(subject) > SUBJECT_CHARS_MAX or not _SUBJECT.fullmatch(subject):
        raise InvalidArgument(
            f"{subject[:300]!r} is not a subject of events: use parts of letters, digits and _ . - : %, with / between "
            f"them (at most {SUBJECT_CHARS_MAX} characters)",
            subject=subject[:300],
        )


def event_plane_key(kind: str, instance_id: int) -> str:
    """The key under which one process says through which kind of event plane it publishes and listens."""
    return f"{EVENT_PLANES}{kind}/{instance_id:x}"


def event_plane_kind(key: str) -> str:
    """The kind of event plane that a key of `event_plane_key` names."""
    return key.removeprefix(EVENT_PLANES).partition("/")[0]


def event_channels_prefix(subject: str) -> str:
    """The prefix under which every publisher of a subject is registered."""
    return f"{EVENT_CHANNELS}{subject}/"


def event_channel_key(subject: str, publisher_id: int) -> str:
    """The key of one publisher of a subject."""
    return f"{event_channels_prefix(subject)}{publisher_id:x}"


def is_event_channel(subject: str, key: str) -> bool:
    """Say whether `key` is of a publisher of `subject`, and not of one whose subject only begins like it."""
    prefix = event_channels_prefix(subject)
    return key.startswith(prefix) and _INSTANCE_ID.fullmatch(key, len(prefix)) is not None


def nats_subject(subject: str) -> str:
    """How NATS spells a subject of events."""
    return f"dynamo.events.{subject.translate(_TO_NATS)}"


def work_queue_key(name: str) -> str:
    """The key of the one process that serves a work queue."""
    check_name("work queue", name)
    return f"{WORK_QUEUES}{quote(name, safe='')}"


def nats_stream(name: str) -> tuple[str, str]:
    """The JetStream stream of a work queue, and the NATS subject of its jobs."""
    check_name("work queue", name)
    stream = name.translate(_TO_STREAM)
    return f"dynamo_queue_{stream}", f"dynamo.queue.{stream}"
