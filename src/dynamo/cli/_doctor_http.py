"""What a frontend answers to the doctor: whatever listens there, an answer comes in time and is not too large."""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
from dataclasses import dataclass

from dynamo._core.errors import CannotConnect
from dynamo.cli._frontend_http import open_url
from dynamo.runtime._daemon_thread import in_daemon_thread

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 8 << 20


@dataclass(frozen=True)
class Answer:
    """An answer of HTTP, good or bad."""

    status: int
    body: bytes


async def get(url: str, path: str, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Ask a frontend. Raises `CannotConnect` if nothing that speaks HTTP answers in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await in_daemon_thread(lambda: _get(url + path, timeout_s), name=f"GET {path}")
    except TimeoutError as error:
        raise CannotConnect(f"{url}{path} did not answer within {timeout_s:g} s") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise CannotConnect(f"no frontend answers at {url}: {why or type(error).__name__}") from error


def _get(at: str, timeout_s: float) -> Answer:
    try:
        with open_url(at, timeout_s) as answer:
            return Answer(answer.status, answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(ANSWER_BYTES_MAX))
