"""Reading JSON from strangers.

What passes is JSON and nothing more: UTF-8, no NaN, no doubled keys, no half of a surrogate pair, no
number too long to print, no nesting that could exhaust the stack, and no flood of tiny values that would hold
the event loop for seconds and fill the memory. Whatever else arrives raises `InvalidArgument`, never anything else.
"""

from __future__ import annotations

import json
import re

import msgspec
from pydantic import JsonValue

from dynamo._core.errors import InvalidArgument

DEPTH_MAX = 64
VALUES_MAX = 1 << 21

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def loads(body: bytes) -> JsonValue:
    """Return the value that `body` spells."""
    if len(body) > VALUES_MAX and _count_values(body) > VALUES_MAX:
        raise InvalidArgument(f"the body has more than {VALUES_MAX} values: send less in one request")
    try:
        value: JsonValue = _decoder.decode(body.decode("utf-8"))
        if _SURROGATE.search(body):
            msgspec.json.encode(value)  # fails exactly if one half of a pair stands alone
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except UnicodeEncodeError:
        raise InvalidArgument("the body contains half of a surrogate pair, which no text contains") from None
    except RecursionError:
        raise InvalidArgument(_TOO_DEEP) from None
    except ValueError as error:
        # Python gives up on long integers with advice that is not for the client.
        reason = "an integer has too many digits" if "int_max_str_digits" in str(error) else str(error)[:200]
        raise InvalidArgument(f"the body is not JSON: {reason}") from None
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX:
        _check_depth(value)
    return value


def _no_doubled_keys(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name[:64]!r} stands twice in one object")
            seen.add(name)
    return members


def _no_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not a JSON value")


def _count_values(body: bytes) -> int:
    """How many values there are, or more: each but the first follows a comma or an opening bracket."""
    count = _count_marks(body)
    return _count_marks(_STRING.sub(b"", body)) if count > VALUES_MAX else count


def _count_marks(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:32]} is too large")
    return number


def _check_depth(value: JsonValue) -> None:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise InvalidArgument(_TOO_DEEP)


_TOO_DEEP = f"the body is nested more than {DEPTH_MAX} levels deep"
_decoder = json.JSONDecoder(object_pairs_hook=_no_doubled_keys, parse_constant=_no_constant, parse_float=_finite)
