"""The header `x-tenant-id`: a proxy that knows who asks says so, and each tenant has a KV cache of its own.

What it says is the request's `cache_salt`, as with Dynamo 1.6, for the router and for every kind of worker.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from dynamo._core.errors import InvalidArgument
from dynamo.llm._nvext import CACHE_SALT_CHARS_MAX, CacheSalt
from dynamo.llm._openai import OpenAIRequest

HEADER = "x-tenant-id"

_salts: TypeAdapter[str] = TypeAdapter(CacheSalt)


def tenant_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return what the header says, of those with names in lower case. Raises `InvalidArgument` if it is no salt."""
    said = {value.strip() for name, value in headers if name == HEADER.encode()}
    if not said:
        return None
    if len(said) > 1:
        raise InvalidArgument(f"there are several headers {HEADER}, which differ", param=HEADER)
    try:
        salt = _salts.validate_python(said.pop().decode("ascii"))
    except (UnicodeDecodeError, ValidationError):
        salt = ""
    if not salt or not salt.isprintable():
        raise InvalidArgument(
            f"the header {HEADER} must be 1 to {CACHE_SALT_CHARS_MAX} printable ASCII characters, "
            "without @, / and \\; blanks around them do not count",
            param=HEADER,
        )
    return salt


def take_tenant(headers: Iterable[tuple[bytes, bytes]], request: OpenAIRequest) -> None:
    """Take the header for the request's salt. Raises `InvalidArgument`."""
    salt = tenant_of(headers)
    if salt is None:
        return
    if request.salt not in (None, salt):
        raise differ()
    request.cache_salt = salt


def differ() -> InvalidArgument:
    """Say that a request contradicts the header."""
    return InvalidArgument(f"the header {HEADER} and the body's 'cache_salt' differ", param=HEADER)
