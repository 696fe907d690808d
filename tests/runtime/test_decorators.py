"""`dynamo_worker`, in each of its forms."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from dynamo.runtime import DistributedRuntime, dynamo_endpoint, dynamo_worker


@pytest.fixture(autouse=True)
def planes_of_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DYN_DISCOVERY", "memory:")
    monkeypatch.setenv("DYN_REQUEST_PLANE", "inproc:")
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()  # this process is not only a worker
    gc.set_threshold(*thresholds)


async def double(request: int) -> int:
    return 2 * request


async def call(runtime: DistributedRuntime, number: int) -> object:
    await runtime.serve("ns.comp.ep", double)
    client = await runtime.client("ns.comp.ep")
    return [item async for item in await client.generate(number, annotated=False)]


async def test_a_worker_is_given_its_runtime_and_returns_what_it_returns() -> None:
    assert await dynamo_worker()(call)(21) == [42]
    assert await dynamo_worker(static=False)(call)(number=21) == [42]


async def test_it_decorates_without_parentheses_too() -> None:
    @dynamo_worker
    async def worker(runtime: DistributedRuntime, number: int) -> object:
        """A docstring of its own."""
        return await call(runtime, number)

    assert (worker.__name__, worker.__doc__) == ("worker", "A docstring of its own.")
    assert await worker(21) == [42]


async def test_what_has_no_effect_any_more_warns() -> None:
    with pytest.warns(DeprecationWarning, match="leave static and enable_nats out"):
        decorate = dynamo_worker(static=True)
    assert await decorate(call)(21) == [42]
    with pytest.warns(DeprecationWarning, match="leave static and enable_nats out") as warned:
        dynamo_worker(enable_nats=False)
    assert warned[0].filename == __file__


def test_a_model_that_is_none_is_refused_when_the_module_is_imported() -> None:
    with pytest.raises(TypeError, match="request_model=<class 'str'>"):

        @dynamo_endpoint(str, str)  # type: ignore[arg-type]
        async def handler(request: str) -> AsyncIterator[str]:
            yield request
