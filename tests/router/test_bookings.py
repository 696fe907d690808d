"""What clients have booked with a router of its own ends, whatever becomes of them."""

from __future__ import annotations

import asyncio

import pytest

from dynamo._core.virtual_clock import run_virtually
from dynamo.router._bookings import BOOKINGS_MAX, Bookings

TIMEOUT_S = 300.0


class Books:
    """A router that knows bookings by their names, and what it was told."""

    def __init__(self) -> None:
        self.freed: list[str] = []
        self.told: list[tuple[str, int]] = []

    async def mark_prefill_complete(self, request_id: str) -> None:
        self.told.append((request_id, 0))

    async def note_tokens(self, request_id: str, num_tokens: int) -> None:
        self.told.append((request_id, num_tokens))

    async def free(self, request_id: str) -> None:
        self.freed.append(request_id)


def test_what_is_not_heard_of_ends_and_what_is_heard_of_goes_on() -> None:
    async def main() -> None:
        router = Books()
        bookings = Bookings(router, TIMEOUT_S)
        for name in ("silent", "computed", "growing", "freed"):
            await bookings.add(name)
        expiring = asyncio.create_task(bookings.expire_forever())
        await asyncio.sleep(TIMEOUT_S - 10)
        assert await bookings.complete_prefill("computed")
        assert await bookings.note_tokens("growing", 3)
        assert await bookings.free("freed")
        assert router.freed == ["freed"]
        await asyncio.sleep(20)
        assert (router.freed, bookings.num_expired, len(bookings)) == (["freed", "silent"], 1, 2)
        await asyncio.sleep(TIMEOUT_S)
        assert (router.freed[2:], len(bookings)) == (["computed", "growing"], 0)
        assert router.told == [("computed", 0), ("growing", 3)]
        expiring.cancel()

    run_virtually(main())


def test_what_is_booked_again_begins_anew() -> None:
    async def main() -> None:
        router = Books()
        bookings = Bookings(router, TIMEOUT_S)
        await bookings.add("one")
        expiring = asyncio.create_task(bookings.expire_forever())
        await asyncio.sleep(TIMEOUT_S - 10)
        await bookings.add("one")
        await asyncio.sleep(TIMEOUT_S - 10)
        assert (router.freed, len(bookings)) == ([], 1)
        expiring.cancel()

    run_virtually(main())


def test_of_too_many_the_oldest_is_given_back_and_that_is_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        router = Books()
        bookings = Bookings(router, TIMEOUT_S)
        for number in range(BOOKINGS_MAX + 2):
            await bookings.add(str(number))
        assert (router.freed, len(bookings), bookings.num_dropped) == (["0", "1"], BOOKINGS_MAX, 2)
        expiring = asyncio.create_task(bookings.expire_forever())
        await asyncio.sleep(10.0)
        expiring.cancel()
        (said,) = caplog.messages
        assert "2 bookings are given back before their time" in said

    run_virtually(main())
