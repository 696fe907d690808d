"""A body that drips in is given up in time, however diligently it drips. On a virtual clock."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import JsonValue
from starlette.types import Message
from tests.sim.loop import SimLoop, run

from dynamo.frontend._body import BODY_TIMEOUT_S, read_json
from dynamo.frontend._errors import HttpRuleError

BODY = b'"slow"'
SCOPE = {"type": "http", "headers": [(b"content-type", b"application/json")]}


def read_slowly(pause_s: float) -> tuple[JsonValue, float]:
    """Read a body of which a byte comes every `pause_s`; return it, and how long that took."""
    left = list(BODY)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        part = bytes([left.pop(0)])
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def main(loop: SimLoop) -> tuple[JsonValue, float]:
        began_at = loop.time()
        value = await read_json(SCOPE, receive, 1000)
        return value, loop.time() - began_at

    return run(main, 0)


def test_a_body_that_comes_slowly_and_in_time_is_read() -> None:
    value, took_s = read_slowly(BODY_TIMEOUT_S / (len(BODY) + 1))
    assert value == "slow"
    assert took_s < BODY_TIMEOUT_S


def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    with pytest.raises(HttpRuleError, match="did not arrive within 30 s") as caught:
        read_slowly(BODY_TIMEOUT_S / (len(BODY) - 1))
    assert caught.value.status == 408
