"""What a request says of where it is to go, in its headers and in its field `nvext`.

The names are those of Dynamo 1.6. A header `x-dynamo-...` that is unknown, is not served or has a value that makes no
sense is refused, and so is one that says something else than the body does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from dynamo._core.errors import InvalidArgument
from dynamo.llm._nvext import DP_RANK_MAX, INSTANCE_ID_MAX, PRIORITY_MAX, STRICT_PRIORITY_MAX, NvExt
from dynamo.llm._routing import NO_HINTS, Explanation, RoutingHints
from dynamo.llm._wishes import NAME_CHARS_MAX

_PREFIX = b"x-dynamo-"
_INTEGER = re.compile(r"-?[0-9]{1,20}|0x[0-9a-f]{1,16}", re.IGNORECASE)
_NAME = re.compile(rf"[!-~]{{1,{NAME_CHARS_MAX}}}")
_FLAGS = {"1": True, "true": True, "0": False, "false": False}

Read = Callable[[str], object]


def hints_of(headers: Iterable[tuple[bytes, bytes]], nvext: NvExt | None) -> RoutingHints:
    """Return what the headers, with names in lower case, and the body say. Raises `InvalidArgument`."""
    said: dict[str, object] = {}
    by: dict[str, str] = {}
    for name, value in headers:
        if name in _HEADERS or name.startswith(_PREFIX):
            field, given = _read(name, value)
            if field in said and said[field] != given:
                raise InvalidArgument(f"the headers {by[field]} and {name.decode()} differ", param=name.decode())
            said[field], by[field] = given, name.decode()
    if nvext is not None:
        for field, given in _of_body(nvext).items():
            if field in said and said[field] != given:
                raise InvalidArgument(f"the header {by[field]} and the body's 'nvext' differ", param=by[field])
            said[field] = given
    if not said:
        return NO_HINTS
    explain = said.pop("explain", False)
    return RoutingHints(**said, explanation=Explanation() if explain else None)  # type: ignore[arg-type]  # as read


def _of_body(nvext: NvExt) -> dict[str, object]:
    said = nvext.hints() | {"explain": nvext.explain}
    return {field: given for field, given in said.items() if given is not None}


def _read(name: bytes, value: bytes) -> tuple[str, object]:
    """Return the field that a header sets, and its value."""
    header, text = name.decode("latin-1"), value.decode("latin-1").strip()
    if name not in _HEADERS:
        why = "is not served yet" if name in _UNSERVED or name.startswith(_META) else "is not known"
        raise InvalidArgument(f"the header {header[:64]} {why}: leave it out", param=header[:64])
    field, read, expected = _HEADERS[name]
    given = read(text)
    if given is None:
        raise InvalidArgument(f"the header {header} must be {expected}, not {text[:64]!r}", param=header)
    return field, given


def _integer(least: int, most: int) -> Read:
    def read(text: str) -> int | None:
        if not _INTEGER.fullmatch(text):
            return None
        number = int(text, 0) if text[:2].lower() == "0x" else int(text)
        return number if least <= number <= most else None

    return read


def _seconds(text: str) -> float | None:
    number = _integer(-PRIORITY_MAX, PRIORITY_MAX)(text)
    return float(number) if isinstance(number, int) else None


def _name(text: str) -> str | None:
    return text if _NAME.fullmatch(text) else None


_INSTANCE = (
    "pinned_instance",
    _integer(0, INSTANCE_ID_MAX),
    "the id of an instance, a whole number or hexadecimal behind 0x",
)
_DP_RANK = ("pinned_dp_rank", _integer(0, DP_RANK_MAX), f"a whole number from 0 to {DP_RANK_MAX}")

#: Header -> the field that it sets, how it is read, and what it must be.
_HEADERS: dict[bytes, tuple[str, Read, str]] = {
    b"x-dynamo-worker-instance-id": _INSTANCE,
    b"x-dynamo-instance-id": _INSTANCE,
    b"x-worker-instance-id": _INSTANCE,
    b"x-dynamo-dp-rank": _DP_RANK,
    b"x-dp-rank": _DP_RANK,
    b"x-data-parallel-rank": _DP_RANK,
    b"x-dynamo-request-priority": ("priority_jump", _seconds, f"a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}"),
    b"x-dynamo-request-strict-priority": (
        "strict_priority",
        _integer(0, STRICT_PRIORITY_MAX),
        f"a whole number from 0 to {STRICT_PRIORITY_MAX}",
    ),
    b"x-dynamo-session-id": ("session_id", _name, "1 to 256 visible characters"),
    b"x-dynamo-meta-policy-class": ("policy_class", _name, "1 to 256 visible characters"),
    b"x-dynamo-explain": ("explain", _FLAGS.get, "1 or 0"),
}
_META = b"x-dynamo-meta-"
_UNSERVED = (b"x-dynamo-prefill-instance-id", b"x-dynamo-prefill-dp-rank", b"x-dynamo-routing-mode")
