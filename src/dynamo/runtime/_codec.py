"""Values and bytes: how a request or an item of a response is written.

A value is anything JSON can say, plus bytes; msgspec structs and pydantic models are dumped. It is
written as msgpack. An item with an event, comments or an id is an `Annotated`: its bytes begin with
0xc1, which msgpack never uses, so that plain items carry no envelope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable
from dynamo.runtime._arguments import wrong_type

JsonValue = dict[str, "JsonValue"] | list["JsonValue"] | str | int | float | bool | None

T = TypeVar("T")

#: What reading bytes of somebody else may raise.
UNREADABLE = (ValueError, RecursionError)  # msgspec's and Unicode's errors are ValueErrors

_ANNOTATED = b"\xc1"
_ANNOTATED_BYTE = 0xC1


@stable(since="0.1")
class Annotated:
    """An item of a response, with what a server may say beside the data: an event, comments, and an id.

    A handler yields one to say more than data; a client gets each item as one, unless it asks for plain data.
    """

    __slots__ = ("_comments", "_data", "_event", "_id")

    def __init__(
        self, data: JsonValue = None, event: str | None = None, comment: list[str] | None = None, id: str | None = None
    ) -> None:
        self._data = data
        self._event = event
        self._comments = [] if comment is None else comment
        self._id = id

    def data(self) -> JsonValue:
        """The item itself; None if it is only an event or comments."""
        return self._data

    def event(self) -> str | None:
        """What kind of thing it tells; None for plain data, `error` for an error."""
        return self._event

    def comments(self) -> list[str]:
        """Remarks for people, most often none."""
        return self._comments

    def id(self) -> str | None:
        """The id that the server gave the item; None if it gave none."""
        return self._id

    def is_error(self) -> bool:
        """Whether the event is `error`."""
        return self._event == "error"

    def __repr__(self) -> str:
        return f"Annotated(data={self._data!r}, event={self._event!r}, comment={self._comments!r}, id={self._id!r})"


@stable(since="0.1")
class _Envelope(msgspec.Struct, array_like=True):
    data: object
    event: str | None = None
    comments: list[str] = []
    id: str | None = None


def _dump_model(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"unsupported type {type(value).__name__}: send what JSON can say, or a model")
    return dump(mode="json")


_encoder = msgspec.msgpack.Encoder(enc_hook=_dump_model)
_decoder = msgspec.msgpack.Decoder()
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


def encode(value: object) -> bytes:
    """Return the bytes of a request or an item.

    Raises TypeError for what has no JSON form, and `InvalidArgument` for what has one that is beyond
    msgpack: integers of more than 64 bits, text that is no Unicode, values nested too deep.
    """
    try:
        if type(value) is Annotated:
            envelope = _Envelope(value.data(), value.event(), value.comments(), value.id())
            return _ANNOTATED + _encoder.encode(envelope)
        return _encoder.encode(value)
    except (OverflowError, RecursionError, UnicodeError) as error:
        raise InvalidArgument(f"a value cannot be sent: {error}") from error


def decode_plain(item: bytes) -> JsonValue:
    """Return the data of an item, without its annotations."""
    if item and item[0] == _ANNOTATED_BYTE:
        return decode_annotated(item).data()
    return _decoder.decode(item)  # type: ignore[no-any-return]


def decode_annotated(item: bytes) -> Annotated:
    """Return an item with its annotations."""
    if item and item[0] == _ANNOTATED_BYTE:
        envelope = _envelope_decoder.decode(memoryview(item)[1:])
        return Annotated(envelope.data, envelope.event, envelope.comments, envelope.id)  # type: ignore[arg-type]
    return Annotated(_decoder.decode(item))


def typed_decoder(value_type: type[T], parameter: str = "item_type") -> Callable[[bytes], T]:
    """Return a decoder of the data of items into a msgspec type, without their annotations.

    Raises TypeError, naming the parameter that said so, if it is no type that bytes can be read into.
    """
    try:
        decoder = msgspec.msgpack.Decoder(value_type)
    except TypeError as error:
        raise wrong_type(parameter, value_type, f"a type that msgspec can read, such as a Struct ({error})") from error

    def decode(item: bytes) -> T:
        if item and item[0] == _ANNOTATED_BYTE:
            return msgspec.convert(decode_annotated(item).data(), value_type)
        return decoder.decode(item)

    return decode


def decode_request(payload: bytes, decode: Callable[[bytes], T]) -> T:
    """Read a request. Raises `InvalidArgument` for bytes that are not one."""
    try:
        return decode(payload)
    except UNREADABLE as error:
        raise InvalidArgument(f"invalid request: {error}") from error
