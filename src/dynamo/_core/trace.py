"""W3C Trace Context (the Recommendation, level 1): which trace a request belongs to, and its span here.

What comes from outside is hostile until it is parsed. A `traceparent` that is not one is as good as none, and a
`tracestate` that is not one is dropped. Within the system both travel in the metadata of a request. A request
that brings none has the trace that its id names, so that every process which it comes to says the same, and
nothing need travel for that.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from dynamo._core.limits import (
    METADATA_BYTES_MAX,
    METADATA_ENTRIES_MAX,
    TRACESTATE_CHARS_MAX,
    TRACESTATE_ENTRIES_MAX,
    TRACESTATE_ENTRY_CHARS,
    TRACESTATE_READ_CHARS_MAX,
)

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

_BLANK = " \t"
_ID = re.compile(r"[0-9a-f]{32}")
# The flags of versions to come are unknown; only the last bit of those of version 00 has a meaning.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_ENTRY = re.compile(_KEY + r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]")


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of a request, and the span that is its work in this process."""

    trace_id: str
    span_id: str
    #: The span of whoever sent it; None if it begins here.
    parent_id: str | None = None
    is_sampled: bool = False
    #: What the systems on the way have to say, for those that follow.
    state: str = ""

    @property
    def traceparent(self) -> str:
        """What whoever is called from here is told."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"

    def write_to(self, metadata: dict[str, str]) -> None:
        """Let requests with this metadata belong to the trace, unless they are then too large to travel."""
        metadata.pop(TRACEPARENT, None)
        metadata.pop(TRACESTATE, None)
        added = {TRACEPARENT: self.traceparent} | ({TRACESTATE: self.state} if self.state else {})
        size_bytes = _size_bytes(metadata) + _size_bytes(added)
        if size_bytes <= METADATA_BYTES_MAX and len(metadata) + len(added) <= METADATA_ENTRIES_MAX:
            metadata.update(added)


def begin_span(metadata: dict[str, str], request_id: str) -> Trace:
    """Return a span of the trace in the metadata, or of the one that the id of the request names."""
    parent = parse_traceparent(metadata.get(TRACEPARENT, ""))
    span_id = secrets.token_hex(8)
    if parent is None:
        return Trace(trace_id_of(request_id), span_id)
    trace_id, parent_id, is_sampled = parent
    return Trace(trace_id, span_id, parent_id, is_sampled, parse_tracestate(metadata.get(TRACESTATE, "")))


def trace_id_of(request_id: str) -> str:
    """The id of the trace of a request that brought none. One of our own request ids is one already."""
    if _ID.fullmatch(request_id) and request_id != _NO_TRACE:
        return request_id
    return blake2b(request_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def trace_metadata(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return what the headers of an HTTP request, with names in lower case, say of its trace; empty if nothing valid.

    Of several `traceparent` none is valid; several `tracestate` are parts of one.
    """
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    if len(parents) != 1:
        return {}
    given = parents[0].decode("latin-1").strip(_BLANK)
    if parse_traceparent(given) is None:
        return {}
    state = parse_tracestate(b",".join(states).decode("latin-1"))
    return {TRACEPARENT: given[:55]} | ({TRACESTATE: state} if state else {})


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """Return the ids of the trace and of the span that sent it, and whether it is sampled; None if it is invalid."""
    match = _PARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return trace_id, span_id, int(flags, 16) % 2 == 1


def parse_tracestate(text: str) -> str:
    """Return the entries that are handed on; empty if there are none, or one of them is invalid."""
    if len(text) > TRACESTATE_READ_CHARS_MAX:
        return ""
    entries = [entry for part in text.split(",") if (entry := part.strip(_BLANK))]
    keys = {entry.partition("=")[0] for entry in entries}
    if len(entries) > TRACESTATE_ENTRIES_MAX or len(keys) < len(entries) or not all(map(_ENTRY.fullmatch, entries)):
        return ""
    return ",".join(_within_limit(entries))


def _within_limit(entries: list[str]) -> list[str]:
    """Leave out whole entries until the rest is short enough: the long ones first, then the last ones."""
    for entry in reversed(entries):
        if _joined_size(entries) > TRACESTATE_CHARS_MAX and len(entry) > TRACESTATE_ENTRY_CHARS:
            entries = [other for other in entries if other != entry]
    while _joined_size(entries) > TRACESTATE_CHARS_MAX:
        entries = entries[:-1]
    return entries


def _joined_size(entries: list[str]) -> int:
    return sum(map(len, entries)) + len(entries) - 1


def _size_bytes(metadata: dict[str, str]) -> int:
    texts = (text for entry in metadata.items() for text in entry)
    return sum(len(text) if text.isascii() else len(text.encode(errors="surrogatepass")) for text in texts)
