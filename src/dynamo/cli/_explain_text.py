"""What a frontend tells of its decisions, as text for a terminal."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from dynamo._core.errors import CannotConnect, ConfigError, NotFound, ProtocolError
from dynamo.llm._kv_router.decision import Decision
from dynamo.llm._kv_router.text_table import table
from dynamo.llm._mode_decision import ModeDecision

T = TypeVar("T")

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 32 << 20

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


def ask(url: str, path: str) -> bytes:
    """Return what a frontend answers. Raises `ConfigError`, `CannotConnect` or `NotFound`."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"--url {url!r} is not a URL like http://127.0.0.1:8000", setting="url")
    at = url.rstrip("/") + path
    try:
        with urllib.request.urlopen(at, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(ANSWER_BYTES_MAX)
            return body
    except urllib.error.HTTPError as error:
        raise NotFound(_refusal(error.read(ANSWER_BYTES_MAX), at, error.code)) from error
    except (OSError, http.client.HTTPException) as error:
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
        lines.append("no decisions yet: nothing was asked, or workers are asked in turn (--router-mode)")
    return "\n".join(lines)


def _row(model: str, decision: Decision | ModeDecision) -> tuple[str, ...]:
    rank = f", rank {decision.dp_rank}" if decision.dp_rank else ""
    row = (decision.request_id, model, f"{decision.worker_id}{rank}")
    count = str(len(decision.candidates))
    if isinstance(decision, ModeDecision):
        return (*row, "", "", count, "", f"{decision.chosen_by} ({decision.mode})")
    waited = f"{decision.queue_s * 1000:.1f} ms" if decision.queue_s else ""
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
