"""Whatever a handler raises ends its request with an error, never as if that was all, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dynamo.runtime import DistributedRuntime, HandlerError
from dynamo.runtime._measured import ErrorType

DEADLINE_S = 60.0


class Odd(BaseException):
    """No `Exception`, as the errors of some test frameworks."""


class Worn(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


ERRORS = [
    StopAsyncIteration("no more"), StopIteration(1), GeneratorExit(), Odd("odd"), SystemExit(3), Worn(),
    ExceptionGroup("several", [ValueError(1)]), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
]  # fmt: skip


@pytest.fixture(params=["inproc:", "tcp:"])
async def runtime(request: pytest.FixtureRequest) -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane=request.param) as runtime:
        yield runtime


async def read(runtime: DistributedRuntime) -> list[object]:
    client = await runtime.client("ns.comp.ep")
    async with asyncio.timeout(DEADLINE_S):
        return [item async for item in await client.generate(None, annotated=False)]


@pytest.mark.parametrize("kind", ["async function", "async generator", "function", "generator"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_its_caller_is_told_and_the_next_request_is_served(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture, kind: str, error: BaseException
) -> None:
    is_bad = True

    def check() -> int:
        if is_bad:
            raise error
        return 1

    async def function(request: object) -> int:
        return check()

    async def generator(request: object) -> AsyncIterator[int]:
        yield check()

    def plain(request: object) -> int:
        return check()

    def plain_generator(request: object) -> object:
        yield check()

    handlers = {
        "async function": function, "async generator": generator, "function": plain, "generator": plain_generator,
    }  # fmt: skip
    served = await runtime.serve("ns.comp.ep", handlers[kind])
    with pytest.raises(HandlerError) as told:
        await read(runtime)
    assert type(error).__name__ in str(told.value)
    is_bad = False
    assert await read(runtime) == [1]
    (measured,) = runtime.measured().values()
    assert (measured.requests, measured.inflight, measured.errors[ErrorType.GENERATE]) == (2, 0, 1)
    await served.close()
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_an_iterator_that_fails_to_close_ends_its_request_only(runtime: DistributedRuntime) -> None:
    class Unclosable(list[int]):
        def __iter__(self) -> Unclosable:
            return self

        def __next__(self) -> int:
            if not self:
                raise StopIteration
            return self.pop()

        def close(self) -> None:
            raise StopIteration("is already closed")

    def gives(request: object) -> object:
        return iter(Unclosable([2, 1]))

    await runtime.serve("ns.comp.ep", gives)
    with pytest.raises(HandlerError, match="the handler raised StopIteration"):
        await read(runtime)
