"""Names of things: endpoints, instances, and the keys under which discovery holds them.

This is the one place in which a key is spelled. A name is checked before it becomes part of a key,
and whatever a key could trip over (`/`, `.`, spaces) is percent-encoded in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from dynamo._core.errors import InvalidArgument

INSTANCES = "v1/instances/"
MODEL_CARDS = "v1/mdc/"
REGISTRATIONS = "v1/registrations/"

# As instance_key() writes it: two spellings of one id would be two keys of one instance.
_INSTANCE_ID = re.compile(r"0|[1-9a-f][0-9a-f]{0,15}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/:]{0,255}")


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
