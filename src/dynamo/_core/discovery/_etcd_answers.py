"""What etcd's JSON says: replies, and what a refusal means."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from dynamo._core.errors import ConfigError, DynamoError, NotFound
from dynamo._core.limits import ETCD_REFUSAL_CHARS_MAX

# What etcd says no with: the numbers of gRPC.
_NOT_FOUND = 5
_PERMISSION_DENIED = 7
_UNAVAILABLE = 14
_UNAUTHENTICATED = 16
# An administrator's change of users or roles makes tokens old, too.
_OLD_TOKEN = ("invalid auth token", "revision of auth store is old")
_REFUSES_US = ("authentication failed", "user name is empty", "authentication is not enabled")

T = TypeVar("T")


class Header(msgspec.Struct):
    """What stands before every reply."""

    revision: int = 0


class KeyValue(msgspec.Struct):
    """A key as etcd holds it."""

    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0
    lease: int = 0


class RangeReply(msgspec.Struct):
    """The keys of a prefix at one revision; `more` if the reply has not all of them."""

    header: Header
    kvs: list[KeyValue] = []
    more: bool = False


class AnyReply(msgspec.Struct):
    """A reply of which nothing is needed."""


class RangePart(msgspec.Struct):
    kvs: list[KeyValue] = []


class _Part(msgspec.Struct):
    response_range: RangePart = msgspec.field(default_factory=RangePart)


class TxnReply(msgspec.Struct):
    """What became of a transaction."""

    header: Header
    succeeded: bool = False
    responses: list[_Part] = []

    @property
    def found(self) -> list[KeyValue]:
        """The keys that it read."""
        return [kv for part in self.responses for kv in part.response_range.kvs]


class _Problem(msgspec.Struct):
    error: str | _Problem = ""
    message: str = ""
    code: int = 0
    grpc_code: int = 0


class MemberIsDown(Exception):
    """A member answers that it cannot."""


class TokenIsOver(MemberIsDown):
    """The proof of who we are is too old, or of another time of etcd's."""


def decoded(data: bytes, reply: type[T]) -> T:
    """Read a reply. Raises `MemberIsDown` if it is none."""
    try:
        return msgspec.json.decode(data, type=reply, strict=False)  # numbers come as text
    except msgspec.MsgspecError as error:
        raise MemberIsDown(f"it does not speak etcd's JSON: {error}") from error


def refusal(status: int, data: bytes) -> Exception:
    """What an answer means that is no reply."""
    try:
        problem = msgspec.json.decode(data, type=_Problem, strict=False)
    except msgspec.MsgspecError:
        said = " ".join(data[:ETCD_REFUSAL_CHARS_MAX].decode(errors="replace").split())
        return MemberIsDown(f"HTTP status {status}, {said!r}: is it etcd 3.4 or newer, with TLS or without as we ask?")
    if isinstance(problem.error, _Problem):
        problem = problem.error
    text = problem.message or (problem.error if isinstance(problem.error, str) else "")
    code = problem.code or problem.grpc_code
    if any(old in text for old in _OLD_TOKEN):
        return TokenIsOver(text)
    if code == _UNAVAILABLE or status in (502, 503, 504):
        return MemberIsDown(text or f"HTTP status {status}")
    if code == _NOT_FOUND:
        return NotFound(f"etcd: {text}")
    if code in (_PERMISSION_DENIED, _UNAUTHENTICATED) or any(refused in text for refused in _REFUSES_US):
        return refuses_us(text)
    return DynamoError(f"etcd: {text or f'HTTP status {status}'}", status=status)


def refuses_us(text: str) -> ConfigError:
    """What etcd says if it knows us not, or does not let us."""
    return ConfigError(
        f"etcd refuses us ({text}): check ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD, or the user and the password in "
        "its URL, and what the user's roles allow",
        setting="ETCD_AUTH",
    )
