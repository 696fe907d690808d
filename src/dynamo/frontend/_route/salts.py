"""The salt of a tenant: where a request says it, and that the server gets it where servers look for it.

A salt keeps tenants apart only if the server's cache heeds it, and servers read it in the body, as `cache_salt`. So
that is where it is put if the request says it elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo.frontend._route.prompts import Fields
from dynamo.frontend._tenant_header import HEADER, differ, tenant_of

_FIELD = "cache_salt"
#: A field with one of these says nothing.
_NOTHING = (None, "")


def salt_of(headers: Iterable[tuple[bytes, bytes]], fields: Fields) -> str | None:
    """Return the salt of a request: that of the header `x-tenant-id`, of the body, or of its `nvext`.

    Raises `InvalidArgument` for a header that is no salt, or that the body contradicts.
    """
    tenant, nvext = tenant_of(headers), fields.get("nvext")
    in_nvext = nvext.get(_FIELD) if isinstance(nvext, dict) else None
    said = [salt for salt in (fields.get(_FIELD), in_nvext) if salt not in _NOTHING]
    if tenant is not None and any(salt != tenant for salt in said):
        raise differ()
    return tenant or next((salt for salt in said if isinstance(salt, str)), None)


def with_salt(body: bytes, fields: Fields, salt: str | None) -> bytes:
    """Return a body that says this salt: as it came if it does so, or says another thing there.

    Raises `InvalidArgument` if it has no place for one.
    """
    if salt is None or fields.get(_FIELD) not in _NOTHING:
        return body
    try:
        values = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(
            f"the body must be a JSON object: what the header {HEADER} says is to be put into it ({error})"
        ) from error
    values[_FIELD] = msgspec.Raw(msgspec.json.encode(salt))
    return msgspec.json.encode(values)
