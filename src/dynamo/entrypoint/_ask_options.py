"""How this process asks, where no client says: sampling, time, and what becomes of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONCURRENCY = 16
REQUEST_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """What is the same of every request."""

    #: Seconds in which a request must be answered completely.
    request_timeout_s: float = REQUEST_TIMEOUT_S
    #: Longest answer in tokens; None: what fits into the context.
    max_tokens: int | None = None
    #: None: the model's own.
    temperature: float | None = None
    #: Requests of a batch that run at a time.
    concurrency: int = CONCURRENCY
    #: File for the results of a batch; None: beside its file.
    output: Path | None = None
    #: Whether that may be overwritten.
    force: bool = False
