"""What a frontend tells of its decisions, as text for a terminal."""

from __future__ import annotations

import http.client
import re
import urllib.error
from typing import TypeVar

import msgspec

from dynamo._core.errors import CannotConnect, ConfigError, InvalidArgument, NotFound, ProtocolError
from dynamo.cli._frontend_http import check_url, open_url
from dynamo.llm._kv_router.decision import Decision, worker_name
from dynamo.llm._kv_router.text_table import table
from dynamo.llm._mode_decision import ModeDecision

T = TypeVar("T")

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 32 << 20

#: What a frontend takes in the header x-request-id, and gives to requests that have none.
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:\-]+")
#: True whatever the reason is, which a frontend without decisions does not know.
_NONE_KNOWN = (
    "no decisions are known: a frontend keeps those on requests that were given a worker, unless workers are asked in "
    "turn (--router-mode), until the last worker of the model leaves; a `python -m dynamo.router` tells its own at its "
    "endpoint `explain`"
)
_HEADINGS = ("request", "model", "worker", "tokens", "cached", "candidates", "waited", "chosen by")


class _Explained(msgspec.Struct):
    """The answer on one request."""

    model: str
    decisions: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    model: str
    decision: msgspec.Raw


class _Recent(msgspec.Struct):
    """The answer on the last requests."""

    decisions: list[_Entry]
    warnings: list[str] = []


class _Kind(msgspec.Struct):
    """What a decision of the simple modes has, and no other."""

    mode: str | None = None


class _Refusal(msgspec.Struct):
    message: str


class _Refused(msgspec.Struct):
    error: _Refusal


def path_of(request_id: str) -> str:
    """Return where a frontend tells of a request. Raises `InvalidArgument` for an id that none has."""
    if not _REQUEST_ID.fullmatch(request_id):
        raise InvalidArgument(
            f"no request has the id {request_id[:128]!r}: ids are of letters, digits and . _ : -, as in the header "
            "x-request-id of the answer",
            param="request_id",
        )
    return f"/v1/explain/{request_id}"


def ask(url: str, path: str) -> bytes:
    """Return what a frontend answers. Raises `ConfigError`, `CannotConnect` or `NotFound`."""
    try:
        at = check_url(url) + path
    except ConfigError as error:
        raise ConfigError(f"--url {error.message}", setting="url") from error
    try:
        with open_url(at, TIMEOUT_S) as answer:
            return answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        raise NotFound(_refusal(error.read(ANSWER_BYTES_MAX), at, error.code)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise CannotConnect(f"no frontend answers at {url}: {why}; give its address with --url") from error


def _refusal(body: bytes, at: str, status: int) -> str:
    try:
        return msgspec.json.decode(body, type=_Refused).error.message
    except msgspec.DecodeError:
        return f"{at} answers {status}: is it a frontend of this version?"


def explained(answer: bytes) -> str:
    """The decisions on one request."""
    told = _decoded(answer, _Explained)
    shown = [_decision(raw).render() for raw in told.decisions]
    return f"model {told.model}\n" + "\n\n".join(shown)


def listed(answer: bytes) -> str:
    """The last decisions, one in a line."""
    told = _decoded(answer, _Recent)
    lines = [f"warning: {warning}" for warning in told.warnings]
    if told.decisions:
        lines += table(_HEADINGS, [_row(entry.model, _decision(entry.decision)) for entry in told.decisions])
    else:
        lines.append(_NONE_KNOWN)
    return "\n".join(lines)


def _row(model: str, decision: Decision | ModeDecision) -> tuple[str, ...]:
    row = (decision.request_id, model, worker_name(decision.worker_id, decision.dp_rank))
    count = str(len(decision.candidates))
    if isinstance(decision, ModeDecision):
        return (*row, "", "", count, "", f"{decision.chosen_by} ({decision.mode})")
    waited = f"{decision.queue_s * 1000:.1f} ms"
    cached = str(decision.predicted_cached_tokens)
    return (*row, str(decision.num_tokens), cached, count, waited, decision.chosen_by.value)


def _decision(raw: msgspec.Raw) -> Decision | ModeDecision:
    kind = _decoded(raw, _Kind)
    return _decoded(raw, Decision) if kind.mode is None else _decoded(raw, ModeDecision)


def _decoded(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the frontend's answer is not one of this version: {error}") from error
