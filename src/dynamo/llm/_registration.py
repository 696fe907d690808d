"""A model that a person registered: which endpoint answers the requests of one kind for a name.

It stands in discovery without a lease, so it stays until somebody removes it. The workers behind the endpoint
know nothing of it: they take the body of an OpenAI request and yield OpenAI chunks.
"""

from __future__ import annotations

import enum

import msgspec

from dynamo._core.address import EndpointId, check_name, registration_key
from dynamo._core.errors import ProtocolError
from dynamo._core.stability import stable
from dynamo.llm._model_card import ModelType

#: The frontends that are told no other namespace look here.
PUBLIC_NAMESPACE = "public"


class Kind(enum.Enum):
    """The requests that a registration is for."""

    Chat = "Chat"
    Completion = "Completion"

    @property
    def word(self) -> str:
        """What it is called on the command line, and in keys."""
        return self.value.lower()

    @property
    def model_type(self) -> ModelType:
        """What a model card would say."""
        return ModelType.Chat if self is Kind.Chat else ModelType.Completions


@stable(since="0.1")
class _Endpoint(msgspec.Struct, frozen=True):
    namespace: str
    component: str
    name: str


@stable(since="0.1")
class _Record(msgspec.Struct, frozen=True):
    """A registration as it stands in discovery."""

    name: str
    endpoint: _Endpoint
    model_type: Kind


@stable(since="0.1")
class Registration(msgspec.Struct, frozen=True):
    """Requests of this kind for this model are answered at this endpoint."""

    model: str
    kind: Kind
    endpoint: EndpointId

    def __post_init__(self) -> None:
        check_name("model name", self.model)

    def key(self, public_namespace: str) -> str:
        """Where it stands in discovery."""
        return registration_key(public_namespace, self.kind.word, self.model)

    def to_json(self) -> bytes:
        """Return the registration as it stands in discovery."""
        at = self.endpoint
        return msgspec.json.encode(
            _Record(self.model, _Endpoint(at.namespace, at.component, at.endpoint), self.kind),
        )

    @classmethod
    def from_json(cls, data: bytes) -> Registration:
        """Read a registration from discovery. Raises `ProtocolError` or `InvalidArgument` if it is none."""
        try:
            record = msgspec.json.decode(data, type=_Record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"not the registration of a model: {error}") from error
        at = record.endpoint
        return cls(record.name, record.model_type, EndpointId(at.namespace, at.component, at.name))
