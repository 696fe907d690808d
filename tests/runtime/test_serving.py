"""The serving side: every kind of handler ends cleanly, and every ending of an endpoint leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import BaseModel

from dynamo._core.context import Context
from dynamo._core.discovery.base import Lease
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import Overloaded
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import (
    CannotConnect,
    DistributedRuntime,
    DynamoError,
    Endpoint,
    HandlerError,
    InvalidArgument,
    dynamo_endpoint,
)

DEADLINE_S = 60.0


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def one(request: object) -> AsyncIterator[int]:
    yield 1


async def collect(endpoint: Endpoint, request: object) -> list[object]:
    client = await endpoint.client()
    async with asyncio.timeout(DEADLINE_S):
        return [item async for item in await client.generate(request, annotated=False)]


async def test_a_plain_function_that_raises_stop_iteration_is_an_error(runtime: DistributedRuntime) -> None:
    def first(request: list[int]) -> int:
        return next(iter(request))

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(first)
    assert await collect(endpoint, [7]) == [7]
    with pytest.raises(HandlerError, match="StopIteration"):
        await collect(endpoint, [])


async def test_nobody_is_told_how_a_plain_function_fails_after_its_request_was_cancelled(
    runtime: DistributedRuntime,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fails(request: object) -> object:
        begun.set()
        go_on.wait(DEADLINE_S)
        raise ValueError("late")

    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about))
    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(fails)
    client = await endpoint.client()
    stream = await client.generate("x")
    reading = asyncio.ensure_future(stream.batch())
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    await stream.aclose()
    assert await reading == []
    go_on.set()
    async with asyncio.timeout(DEADLINE_S):
        while not runtime.measure(endpoint.id).cancelled:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    gc.collect()  # what was never heard is told of then
    assert told == []


async def test_a_sync_generator_that_is_left_within_a_step_is_closed_after_it(runtime: DistributedRuntime) -> None:
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def blocks(request: str) -> Iterator[int]:
        try:
            begun.set()
            go_on.wait(DEADLINE_S)
            yield 1
        finally:
            closed.set()

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(blocks)
    stream = await (await endpoint.client()).generate("")
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    await stream.aclose()
    await asyncio.sleep(0)  # the handler is cancelled, and asks to be closed
    go_on.set()
    assert await asyncio.to_thread(closed.wait, DEADLINE_S)


async def test_a_stream_that_a_handler_returns_is_closed_with_its_request(runtime: DistributedRuntime) -> None:
    closed: list[str] = []

    async def endless(name: str) -> AsyncIterator[str]:
        try:
            while True:
                yield name * 1000
        finally:
            closed.append(name)

    async def returns(request: str) -> AsyncIterator[str]:
        return endless(request)

    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(returns)
    client = await endpoint.client()
    stream = await client.generate("a")
    await anext(stream)
    await served.close(drain_s=0)
    assert closed == ["a"]


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


async def test_a_validated_handler_may_take_a_context_and_is_closed_with_its_request(
    runtime: DistributedRuntime,
) -> None:
    closed = asyncio.Event()

    @dynamo_endpoint(Question, Answer)
    async def answer(request: Question, context: Context) -> AsyncIterator[object]:
        try:
            while True:
                yield {"text": f"{request.text} {context.request_id}"}
        finally:
            closed.set()

    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(answer)
    client = await endpoint.client()
    stream = await client.generate({"text": "hi"}, annotated=False, context=Context("7"))
    assert await anext(stream) == {"text": "hi 7"}
    await served.close(drain_s=0)
    assert closed.is_set()


@pytest.mark.parametrize("request_", [{"text": 1}, 5, "[" * 100_000, "not json", None])
async def test_a_validated_handler_refuses_what_is_no_request(runtime: DistributedRuntime, request_: object) -> None:
    @dynamo_endpoint(Question, Answer)
    async def answer(request: Question) -> AsyncIterator[object]:
        yield {"text": request.text}

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(answer)
    with pytest.raises(InvalidArgument, match="Invalid request"):
        await collect(endpoint, request_)


async def test_an_endpoint_is_served_once(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    first = await endpoint.serve(one)
    with pytest.raises(InvalidArgument, match="serves ns/comp/ep already"):
        await endpoint.serve(one)
    assert await collect(endpoint, None) == [1]
    await asyncio.gather(first.close(), first.close(drain_s=0))
    await first.close()
    await endpoint.serve(one)
    assert await collect(endpoint, None) == [1]


async def test_a_cancelled_serve_endpoint_leaves_discovery(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    serving = asyncio.ensure_future(endpoint.serve_endpoint(one))
    client = await endpoint.client()
    await client.wait_for_instances(timeout_s=DEADLINE_S)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert await runtime.discovery.get_prefix(endpoint.id.instances_prefix) == {}


class Troubled(MemoryDiscovery):
    """A discovery that registers, and then fails or never says so; and cannot delete for a while."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error
        self.deletes_to_fail = 0
        self.registered = asyncio.Event()

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await super().put(key, value, lease)
        self.registered.set()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    async def delete(self, key: str) -> None:
        if self.deletes_to_fail:
            self.deletes_to_fail -= 1
            raise Overloaded("discovery is busy")
        await super().delete(key)


async def test_an_endpoint_whose_registration_is_cancelled_is_not_registered() -> None:
    discovery = Troubled(None)
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        serving = asyncio.ensure_future(endpoint.serve(one))
        await discovery.registered.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert await discovery.get_prefix("") == {}


async def test_an_endpoint_whose_registration_fails_is_not_registered() -> None:
    discovery = Troubled(Overloaded("no room"))
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        with pytest.raises(Overloaded, match="no room"):
            await runtime.endpoint("ns.comp.ep").serve(one)
        assert await discovery.get_prefix("") == {}


class Forgetful(MemoryDiscovery):
    """A discovery that fails at the first deletion."""

    failed = False

    async def delete(self, key: str) -> None:
        if not self.failed:
            self.failed = True
            raise Overloaded("discovery is busy")
        await super().delete(key)


async def test_a_runtime_closes_everything_whatever_fails() -> None:
    discovery, plane = Forgetful(), InprocPlane()
    cleaned_up: list[str] = []

    async def slow(request: str) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned_up.append(request)

    tasks = asyncio.all_tasks()
    runtime = DistributedRuntime(discovery=discovery, request_plane=plane)
    async with DistributedRuntime(discovery=discovery, request_plane=plane) as caller:
        with pytest.raises(Overloaded, match="busy"):
            async with runtime:
                for name in ("a", "b"):
                    endpoint = runtime.endpoint(f"ns.comp.{name}")
                    await endpoint.serve(slow, drain_s=0.0)
                    client = await endpoint.client()
                    stream = await (await caller.endpoint(f"ns.comp.{name}").client()).generate(name)
                    await anext(stream)
        assert sorted(cleaned_up) == ["a", "b"]
        assert await discovery.get_prefix("") == {}  # the lease has ended
        with pytest.raises(DynamoError):
            await client.wait_for_change()
    await runtime.close()
    assert asyncio.all_tasks() == tasks


async def test_a_runtime_may_be_closed_twice_and_at_the_same_time() -> None:
    runtime = DistributedRuntime(discovery="memory:", request_plane="tcp:")
    async with runtime:
        await runtime.endpoint("ns.comp.ep").serve(one)
        await runtime.endpoint("ns.comp.ep").client()
        await asyncio.gather(runtime.close(), runtime.close())
    await runtime.close()


async def test_a_runtime_that_cannot_join_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("shared")
    directory.chmod(0o777)
    tasks = asyncio.all_tasks()
    with pytest.raises(DynamoError, match="others may write"):
        async with DistributedRuntime(discovery=f"file://{directory}", request_plane="tcp:"):
            pass
    assert asyncio.all_tasks() == tasks


async def test_what_a_handler_raises_is_logged_where_it_was_raised(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(request: str) -> None:
        raise KeyError(request)

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(fails)
    client = await endpoint.client()
    with pytest.raises(HandlerError, match="KeyError: 'kaboom'"):
        async for _ in await client.generate("kaboom", context=Context("r-1")):
            pass
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("ns/comp/ep failed in request r-1: KeyError: 'kaboom' (")
    assert "test_serving.py:" in record.getMessage()
    assert record.getMessage().endswith(" in fails)")


async def test_an_error_of_ours_is_an_answer_and_not_logged(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuses(request: str) -> None:
        raise InvalidArgument("too long")

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(refuses)
    with pytest.raises(InvalidArgument, match="too long"):
        await collect(endpoint, "x")
    assert caplog.records == []


async def test_an_error_without_a_text_is_logged_all_the_same(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    async def fails(request: str) -> None:
        raise Mute

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(fails)
    with pytest.raises(HandlerError, match="Mute"):
        await collect(endpoint, "x")
    assert "Mute: (its text cannot be had: RuntimeError)" in caplog.text


class Silent(MemoryDiscovery):
    """Does not answer when it is told to take something out."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def delete(self, key: str) -> None:
        self.asked.set()
        await self.answer.wait()
        await super().delete(key)


async def test_an_endpoint_drains_even_if_discovery_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Its callers are told that it takes no more, and what runs has the time to finish."""
    discovery, plane, go_on = Silent(), InprocPlane(), asyncio.Event()

    async def waits(request: object) -> AsyncIterator[int]:
        yield 1
        await go_on.wait()
        yield 2

    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery=discovery, request_plane=plane) as runtime,
    ):
        endpoint = runtime.endpoint("ns.comp.ep")
        served = await endpoint.serve(waits)
        client = await endpoint.client()
        stream = await client.generate(None, annotated=False)
        assert await anext(stream) == 1
        closing = asyncio.ensure_future(served.close(drain_s=DEADLINE_S))
        await discovery.asked.wait()
        assert not (await runtime.health.is_ready()).is_good, "readiness comes first"
        with pytest.raises(CannotConnect):
            while True:
                await (await client.direct(None, served.instance_id)).aclose()
                await asyncio.sleep(0.01)
        go_on.set()
        assert [item async for item in stream] == [2]
        await closing
        assert "discovery did not take ns/comp/ep out within 2 s" in caplog.text
        discovery.answer.set()


@pytest.mark.parametrize("plane", ["inproc", "tcp"])
async def test_a_request_that_comes_after_its_instance_has_left_goes_to_another_one(plane: str) -> None:
    """Discovery does not tell that the instance has left. Over TCP its process answers, and says so."""
    discovery, way = Silent(), InprocPlane() if plane == "inproc" else "tcp:"
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery=discovery, request_plane=way) as first,
        DistributedRuntime(discovery=discovery, request_plane=way) as second,
    ):
        leaving = await first.endpoint("ns.comp.ep").serve(one)
        await second.endpoint("ns.comp.ep").serve(one)
        client = await second.endpoint("ns.comp.ep").client()
        await client.wait_for_instances(2)
        await leaving.close(drain_s=0)
        assert len(client.instance_ids()) == 2
        for _ in range(10):
            stream = await client.round_robin(None, annotated=False)
            assert [item async for item in stream] == [1]
        discovery.answer.set()
