"""A wrong argument of a public function is one error, which names the parameter, the value and what is allowed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest
from pydantic import BaseModel

from dynamo.runtime import (
    Client,
    DistributedRuntime,
    InvalidArgument,
    QueueLimits,
    StreamTimeouts,
    UnaryClient,
    dynamo_endpoint,
    dynamo_worker,
    serve_unary_endpoint,
)
from dynamo.runtime.logging import configure_dynamo_logging, log_message

PATH = "ns.comp.ep"
#: What is given in place of an argument; type checkers are told nothing of it.
Wrong = object


def loosely(function: object) -> Callable[..., object]:
    """Return a function as a program without type checker sees it."""
    assert callable(function)
    return cast("Callable[..., object]", function)


async def one(request: object) -> int:
    return 1


class Model(BaseModel):
    text: str


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


@pytest.fixture
async def client(runtime: DistributedRuntime) -> Client:
    await runtime.serve("ns.comp.good", one)
    return await runtime.client("ns.comp.good")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("discovery", 5, "a URL such as file:///some/dir"),
        ("request_plane", 5, "a URL such as tcp:"),
        ("event_plane", 5, "a URL such as zmq:"),
        ("work_queue", 5, "a URL such as nats://host:4222"),
        ("rng", 5, "a random.Random"),
        ("system_server", "no", "True or False"),
        ("event_loop", 5, "nothing"),
    ],
)
def test_arguments_of_a_runtime(name: str, value: Wrong, allowed: str) -> None:
    with pytest.raises(TypeError, match=f"{name}={value!r} is of type {type(value).__name__}: give {allowed}"):
        DistributedRuntime(**{name: value})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"handler": 5}, TypeError, "handler=5 is of type int: give an async generator"),
        ({"handler": None}, TypeError, "handler=None is of type NoneType: give an async generator"),
        ({"handler": lambda: 1}, TypeError, r"must take \(request\) or \(request, context\)"),
        ({"drain_s": -1}, InvalidArgument, "drain_s=-1: give seconds, 0 or more"),
        ({"drain_s": math.nan}, InvalidArgument, "drain_s=nan: give seconds, 0 or more"),
        ({"drain_s": math.inf}, InvalidArgument, "drain_s=inf: give seconds, 0 or more"),
        ({"drain_s": 10**400}, InvalidArgument, r"drain_s=10+\.\.\.: give seconds, 0 or more"),
        ({"drain_s": 10**5000}, InvalidArgument, "drain_s=<int that cannot be shown: ValueError>: give seconds"),
        ({"drain_s": "5"}, TypeError, "drain_s='5' is of type str: give seconds, 0 or more"),
        ({"drain_s": None}, TypeError, "drain_s=None is of type NoneType: give seconds, 0 or more"),
        ({"request_type": 5}, TypeError, "request_type=5 is of type int: give a type that msgspec can read"),
        ({"lease": 5}, TypeError, "lease=5 is of type int: give what `grant_custom_lease` returned, or None"),
        ({"max_concurrent_requests": 0}, InvalidArgument, "max_concurrent_requests=0: give an integer of 1 or more"),
        ({"max_concurrent_requests": 1.5}, TypeError, "max_concurrent_requests=1.5 is of type float: give an integer"),
        ({"max_concurrent_requests": True}, TypeError, "max_concurrent_requests=True is of type bool: give an integer"),
        ({"max_queued_requests": 4}, InvalidArgument, "max_queued_requests has no effect without max_concurrent"),
        (
            {"max_concurrent_requests": 1, "max_queued_requests": -1},
            InvalidArgument,
            "max_queued_requests=-1: give an integer of 0 or more, or None for 16",
        ),
        (
            {"max_concurrent_requests": 1, "queue_timeout_s": 0},
            InvalidArgument,
            "queue_timeout_s=0: give seconds, more than 0, or None for 10",
        ),
        (
            {"max_concurrent_requests": 1, "queue_timeout_s": "1"},
            TypeError,
            "queue_timeout_s='1' is of type str: give seconds, more than 0, or None for 10",
        ),
        (
            {"health_check_payload": object()},
            TypeError,
            r"health_check_payload=<object .* of type object: give a request",
        ),
    ],
)
async def test_arguments_of_serve(
    runtime: DistributedRuntime, arguments: dict[str, Wrong], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await runtime.serve(PATH, **{"handler": one, **arguments})  # type: ignore[arg-type]
    assert await runtime.discovery.get_prefix("") == {}
    await runtime.serve(PATH, one)  # nothing is left of the first try


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (5, TypeError, "path=5 is of type int: give text such as 'namespace.component.endpoint'"),
        (None, TypeError, "path=None is of type NoneType"),
        ("", InvalidArgument, "'' is not an endpoint: write namespace.component.endpoint"),
        ("ns.comp", InvalidArgument, "'ns.comp' is not an endpoint"),
        ("ns.comp.ep.more", InvalidArgument, "'ns.comp.ep.more' is not an endpoint"),
        ("ns.co mp.ep", InvalidArgument, "'co mp' is not a valid component: use letters, digits and"),
        ("..ep", InvalidArgument, "'' is not a valid namespace"),
    ],
)
async def test_paths_of_endpoints(
    runtime: DistributedRuntime, path: Wrong, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loosely(runtime.endpoint)(path)
    with pytest.raises(error, match=message):
        await runtime.client(path)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        await runtime.serve(path, one)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (5, TypeError, "=5 is of type int: give a str"),
        ("a b", InvalidArgument, "'a b' is not a valid"),
        ("", InvalidArgument, "'' is not a valid"),
    ],
)
async def test_names_of_the_longer_way(
    runtime: DistributedRuntime, name: Wrong, error: type[Exception], message: str
) -> None:
    namespace = runtime.namespace("ns")
    component = namespace.component("comp")
    endpoint = component.endpoint("ep")
    names: list[tuple[str, Callable[[str], object]]] = [
        ("namespace", runtime.namespace),
        ("component", namespace.component),
        ("endpoint", component.endpoint),
        ("endpoint", endpoint.sibling),
        ("topic", namespace.event_subject),
        ("topic", component.event_subject),
        ("topic", endpoint.event_subject),
    ]
    for parameter, take in names:
        with pytest.raises(error, match=parameter if error is TypeError else f"{message} {parameter}") as raised:
            take(name)  # type: ignore[arg-type]
        assert message in str(raised.value)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c.wait_for_instances("1"), TypeError, "count='1' is of type str: give an integer of 0 or more"),
        (lambda c: c.wait_for_instances(-1), InvalidArgument, "count=-1: give an integer of 0 or more"),
        (
            lambda c: c.wait_for_instances(1, -1),
            InvalidArgument,
            "timeout_s=-1: give seconds, 0 or more, or None for no",
        ),
        (lambda c: c.wait_for_instances(1, math.nan), InvalidArgument, "timeout_s=nan: give seconds"),
        (lambda c: c.wait_for_instances(1, "1"), TypeError, "timeout_s='1' is of type str: give seconds"),
        (lambda c: c.direct(None, "7"), TypeError, "instance_id='7' is of type str: give the id of an instance"),
        (lambda c: c.direct(None, True), TypeError, "instance_id=True is of type bool: give the id of an instance"),
        (lambda c: c.generate(None, context="id"), TypeError, "context='id' is of type str: give the context that"),
        (lambda c: c.round_robin(None, context={}), TypeError, "context={} is of type dict: give the context that"),
        (lambda c: c.generate(None, item_type=5), TypeError, "item_type=5 is of type int: give a type that msgspec"),
        (lambda c: c.generate(object()), TypeError, "unsupported type object: send what JSON can say, or a model"),
        (lambda c: c.chosen(5, min, item_type=int), TypeError, "request_for=5 is of type int: give a function"),
        (lambda c: c.chosen(str, 5, item_type=int), TypeError, "choose=5 is of type int: give a function"),
    ],
)
async def test_arguments_of_a_client(
    client: Client, call: Callable[[Client], Awaitable[object]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await call(client)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.client(PATH, timeouts=5), TypeError, "timeouts=5 is of type int: give StreamTimeouts, or None"),
        (lambda r: r.grant_custom_lease(0), InvalidArgument, "ttl_s=0: give seconds, more than 0"),
        (lambda r: r.grant_custom_lease("1"), TypeError, "ttl_s='1' is of type str: give seconds, more than 0"),
        (
            lambda r: r.namespace("ns").component("c").create_service_with_custom_lease(ttl=-1),
            InvalidArgument,
            "ttl=-1: give seconds, more than 0",
        ),
        (lambda r: r.work_queue(5), TypeError, "name=5 is of type int: give a str"),
        (lambda r: r.work_queue("a b"), InvalidArgument, "'a b' is not a valid work queue"),
        (lambda r: r.work_queue("q", 5), TypeError, "payload_type=5 is of type int: give a type that msgspec can read"),
        (lambda r: r.serve_work_queue(5), TypeError, "name=5 is of type int: give a str"),
        (lambda r: r.serve_work_queue("q", 5), TypeError, "limits=5 is of type int: give QueueLimits, or None"),
        (lambda r: r.events.publish(5, 1), TypeError, "subject=5 is of type int: give a str"),
        (lambda r: r.events.publish("a b", 1), InvalidArgument, "'a b' is not a subject of events"),
        (lambda r: r.events.subscribe(5), TypeError, "subject=5 is of type int: give a str"),
        (lambda r: r.namespace("ns").subscribe("t", 5), TypeError, "payload_type=5 is of type int: give a type that"),
        (lambda r: r.endpoint(PATH).serve_endpoint(one, "yes"), TypeError, "graceful_shutdown='yes' is of type str"),
        (lambda r: serve_unary_endpoint(r, one), TypeError, "endpoint=<.* is of type DistributedRuntime: give what"),
    ],
)
async def test_other_arguments_of_a_runtime(
    runtime: DistributedRuntime,
    call: Callable[[DistributedRuntime], Awaitable[object]],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        await call(runtime)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.context(5), TypeError, "request_id=5 is of type int: give a str, or None"),
        (lambda r: r.context(metadata="a"), TypeError, "metadata='a' is of type str: give a dict of str to str"),
        (
            lambda r: r.context(timeout_s=-1),
            InvalidArgument,
            "timeout_s=-1: give seconds, 0 or more, or None for no limit",
        ),
        (lambda r: r.set_health_status("ready"), TypeError, "ready='ready' is of type str: give True or False"),
        (
            lambda r: loosely(UnaryClient)(r),
            TypeError,
            "client=<.* is of type DistributedRuntime: give what `runtime.client",
        ),
        (
            lambda r: loosely(StreamTimeouts)("1"),
            TypeError,
            "first_item_s='1' is of type str: give seconds, more than 0, or None",
        ),
        (lambda r: loosely(StreamTimeouts)(1, False), TypeError, "inter_item_s=False is of type bool: give seconds"),
        (
            lambda r: loosely(QueueLimits)(jobs_max="9"),
            TypeError,
            "jobs_max='9' is of type str: give an integer of 1 or more",
        ),
        (
            lambda r: loosely(QueueLimits)(visibility_s=None),
            TypeError,
            "visibility_s=None is of type NoneType: give seconds, more",
        ),
        (lambda r: loosely(QueueLimits)(attempts_max=0), InvalidArgument, "limits above zero, not .*attempts_max=0"),
        (lambda r: loosely(dynamo_worker)("main"), TypeError, "static='main' is of type str: give the async function"),
        (lambda r: loosely(dynamo_worker)(enable_nats=5), TypeError, "enable_nats=5 is of type int: give nothing"),
        (lambda r: loosely(dynamo_worker())(5), TypeError, "function=5 is of type int: give an async function"),
        (
            lambda r: loosely(dynamo_endpoint)(dict, Model),
            TypeError,
            "request_model=<class 'dict'> is of type type: give a class of",
        ),
        (
            lambda r: loosely(dynamo_endpoint)(Model, 5),
            TypeError,
            "response_model=5 is of type int: give a class of pydantic",
        ),
        (
            lambda r: loosely(dynamo_endpoint(Model, Model))(5),
            TypeError,
            "function=5 is of type int: give an async generator",
        ),
        (
            lambda r: loosely(log_message)("loud", "m", "app", "f", 1),
            InvalidArgument,
            "level='loud': give one of error, warn",
        ),
        (lambda r: loosely(log_message)(5, "m", "app", "f", 1), InvalidArgument, "level=5: give one of error, warn"),
        (lambda r: loosely(log_message)("info", 5, "app", "f", 1), TypeError, "message=5 is of type int: give a str"),
        (
            lambda r: loosely(log_message)("info", "m", "app", "f", "1"),
            TypeError,
            "line='1' is of type str: give the number",
        ),
        (
            lambda r: loosely(configure_dynamo_logging)(5),
            TypeError,
            "service_name=5 is of type int: give a str, or None",
        ),
    ],
)
async def test_arguments_of_what_does_not_wait(
    runtime: DistributedRuntime, call: Callable[[DistributedRuntime], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(runtime)


async def test_times_of_what_is_served_and_of_a_queue(runtime: DistributedRuntime) -> None:
    served = await runtime.serve(PATH, one)
    with pytest.raises(InvalidArgument, match="drain_s=nan: give seconds, 0 or more, or None for as long as"):
        await served.close(drain_s=math.nan)
    assert served.is_open
    async with await runtime.serve_work_queue("q"), await runtime.work_queue("q") as queue:
        with pytest.raises(InvalidArgument, match="timeout_s=-1: give seconds, 0 or more"):
            await queue.dequeue(-1)


async def test_a_value_that_is_long_is_cut_in_the_message(runtime: DistributedRuntime) -> None:
    with pytest.raises(TypeError) as raised:
        await runtime.client(["x" * 10_000])  # type: ignore[arg-type]
    assert len(str(raised.value)) < 400


async def test_nothing_runs_on_after_a_wrong_argument(runtime: DistributedRuntime) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(InvalidArgument):
        await runtime.serve(PATH, one, drain_s=-1)
    assert asyncio.all_tasks() == before
