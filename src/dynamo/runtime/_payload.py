"""Payloads of events and jobs: values as requests are, read into a type if one is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from dynamo.runtime._codec import decode_plain, typed_decoder

T = TypeVar("T")


def payload_decoder(payload_type: type[T] | None) -> Callable[[bytes], T]:
    """Return what reads a payload: into a msgspec type, a pydantic model, or without a type into a plain value.

    It raises one of `_codec.UNREADABLE` for bytes that are no such payload.
    """
    if payload_type is None:
        return cast("Callable[[bytes], T]", decode_plain)
    validate = getattr(payload_type, "model_validate", None)
    if validate is None:
        return typed_decoder(payload_type, "payload_type")
    return lambda payload: cast("T", validate(decode_plain(payload)))
