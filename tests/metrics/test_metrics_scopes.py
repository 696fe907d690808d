"""The labels that are attached by themselves: those of the scope in which a metric is used."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.metrics.reading import Samples, World, samples

from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.metrics import Metrics, counter, gauge, scope
from dynamo.metrics._scope import MODEL_CHARS_MAX, name_process
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._exposition import SCOPES_MAX

DEADLINE_S = 60.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

# As in a module of a user's; every test has a label value of its own.
used = counter("test_used", "How often something was used", ("by",))
done = counter("test_done", "How often something was done")


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:") as runtime,
    ):
        yield runtime


@pytest.fixture
def named_process() -> Iterator[None]:
    name_process("shop", "Till")
    yield
    name_process("", "")


def page(runtime: DistributedRuntime) -> Samples:
    return samples(runtime.exposition.prepare()(OPENMETRICS)[0].decode())


def labels_of(runtime: DistributedRuntime, by: str) -> list[str]:
    """The attached labels of the series of a test."""
    found = [labels.split(",") for name, labels in page(runtime) if name == "test_used_total"]
    return [",".join(sorted(set(labels) - {f"by={by}"})) for labels in found if f"by={by}" in labels]


async def ask(runtime: DistributedRuntime, path: str, request: object = "x") -> list[object]:
    client = await runtime.endpoint(path).client()
    await client.wait_for_instances()
    return [item async for item in await client.generate(request, annotated=False)]


IN_ENDPOINT = "dynamo_component=till,dynamo_endpoint=sell,dynamo_namespace=shop"


# In a handler.


async def test_in_a_handler_the_labels_are_those_of_its_endpoint(runtime: DistributedRuntime) -> None:
    async def stream(request: object) -> AsyncIterator[object]:
        used.labels("stream").inc()
        yield 1
        used.labels("stream").inc()

    async def one(request: object) -> object:
        used.labels("one").inc()
        await asyncio.create_task(in_a_task())
        return 1

    async def in_a_task() -> None:
        used.labels("task").inc()

    def plain(request: object) -> object:
        used.labels("thread").inc()
        return 1

    def plain_stream(request: object) -> Iterator[object]:
        used.labels("thread stream").inc()
        yield 1

    for handler in (stream, one, plain, plain_stream):
        served = await runtime.endpoint("shop.till.sell").serve(handler)
        assert await ask(runtime, "shop.till.sell") == [1]
        await served.close()
    for by in ("stream", "one", "task", "thread", "thread stream"):
        assert labels_of(runtime, by) == [IN_ENDPOINT]


async def test_one_metric_in_two_endpoints_is_two_series(runtime: DistributedRuntime) -> None:
    async def serve(request: object) -> object:
        used.labels("both").inc()
        return 1

    for name in ("sell", "buy"):
        await runtime.endpoint(f"shop.till.{name}").serve(serve)
        for _ in range(3):
            await ask(runtime, f"shop.till.{name}")
    values = {labels: value for (name, labels), value in page(runtime).items() if "by=both" in labels}
    assert sorted(values.values()) == [3, 3]


async def test_a_model_that_is_named_later_is_attached_from_then_on(runtime: DistributedRuntime) -> None:
    async def serve(request: object) -> object:
        used.labels("model").inc()
        return 1

    endpoint = runtime.endpoint("shop.till.sell")
    await endpoint.serve(serve)
    await ask(runtime, "shop.till.sell")
    runtime.endpoint("shop.till.sell").metrics.name_model("llama")
    await ask(runtime, "shop.till.sell")
    assert sorted(labels_of(runtime, "model")) == [IN_ENDPOINT, f"{IN_ENDPOINT},model=llama"]
    endpoint.metrics.name_model(None)
    await ask(runtime, "shop.till.sell")
    assert page(runtime)["test_used_total", ",".join(sorted([*IN_ENDPOINT.split(","), "by=model"]))] == 2


# Elsewhere.


async def test_outside_of_requests_the_labels_are_those_of_the_process(
    runtime: DistributedRuntime, named_process: None
) -> None:
    used.labels("process").inc()
    thread = threading.Thread(target=used.labels("process thread").inc)
    thread.start()
    thread.join()
    for by in ("process", "process thread"):
        assert labels_of(runtime, by) == ["dynamo_component=Till,dynamo_namespace=shop"]


async def test_in_a_process_without_a_name_nothing_is_attached(runtime: DistributedRuntime) -> None:
    used.labels("nobody").inc()
    assert labels_of(runtime, "nobody") == [""]


async def test_a_scope_counts_inside_and_not_after_it(runtime: DistributedRuntime) -> None:
    with scope(namespace="shop", component="Till"):
        with scope(model="llama", component=""):
            used.labels("inner").inc()
        used.labels("outer").inc()
        in_context = contextvars.copy_context()
    used.labels("after").inc()
    in_context.run(used.labels("context").inc)
    assert labels_of(runtime, "inner") == ["dynamo_namespace=shop,model=llama"]
    assert labels_of(runtime, "outer") == ["dynamo_component=Till,dynamo_namespace=shop"]
    assert labels_of(runtime, "after") == [""]
    assert labels_of(runtime, "context") == ["dynamo_component=Till,dynamo_namespace=shop"]


def test_a_scope_refuses_what_cannot_be_a_name() -> None:
    with pytest.raises(InvalidArgument, match="'a b' is not a valid namespace"), scope(namespace="a b"):
        pass
    with pytest.raises(InvalidArgument, match=r"model=.* is 257 characters long: at most 256"):
        Metrics().name_model("x" * (MODEL_CHARS_MAX + 1))
    with pytest.raises(InvalidArgument, match=r"model='\\ud800' is not allowed: give text that UTF-8 can say"):
        Metrics().name_model("\ud800")


@pytest.mark.parametrize("name", [3, b"x", ["a"], 0, b""])
def test_a_name_that_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"model=.* is not allowed: give a str, or None"), scope(model=name):
        pass
    with pytest.raises(InvalidArgument, match=r"endpoint=.* is not allowed: give a str, or None"), scope(endpoint=name):
        pass


# Through an endpoint, a component, a namespace, the runtime.


async def test_metrics_of_an_endpoint_have_its_labels_wherever_they_are_used(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("shop.till.sell")
    component = runtime.namespace("shop").component("till")
    for metrics, by in (
        (endpoint.metrics, "endpoint"),
        (component.metrics, "component"),
        (runtime.namespace("shop").metrics, "namespace"),
        (runtime.metrics, "runtime"),
    ):
        part = metrics.counter("test_used", "How often something was used", ("by",)).labels(by)
        with scope(namespace="elsewhere"):
            part.inc()
    assert labels_of(runtime, "endpoint") == [IN_ENDPOINT]
    assert labels_of(runtime, "component") == ["dynamo_component=till,dynamo_namespace=shop"]
    assert labels_of(runtime, "namespace") == ["dynamo_namespace=shop"]
    assert labels_of(runtime, "runtime") == [""]


async def test_the_metrics_of_the_runtime_have_the_name_of_the_process(
    runtime: DistributedRuntime, named_process: None
) -> None:
    runtime.exposition.name_process("shop", "Till")
    runtime.metrics.counter("test_used", "How often something was used", ("by",)).labels("named").inc()
    assert labels_of(runtime, "named") == ["dynamo_component=Till,dynamo_namespace=shop"]


async def test_an_endpoint_asked_twice_makes_the_same_metric(runtime: DistributedRuntime) -> None:
    one, two = (runtime.endpoint("shop.till.sell").metrics.counter("test_done", "Done") for _ in range(2))
    assert one is two
    assert one is not done
    assert one is not runtime.endpoint("shop.till.buy").metrics.counter("test_done", "Done")


async def test_what_is_asked_at_a_scrape_ends_with_the_runtime_of_its_endpoint(runtime: DistributedRuntime) -> None:
    calls = []
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:") as other:
        other.endpoint("shop.till.sell").metrics.on_scrape(lambda: calls.append("callback"))
        other.endpoint("shop.till.sell").metrics.gauge("test_size", "A size", function=lambda: 1)
        page(other)
        page(runtime)
        assert calls == ["callback"]
        held = weakref.ref(other.exposition)
    del other
    gc.collect()
    assert held() is None
    assert [labels for name, labels in page(runtime) if name == "test_size"] == []


async def test_what_is_asked_of_the_module_is_asked_by_each_runtime(runtime: DistributedRuntime) -> None:
    gauge("test_everywhere", "A size", function=lambda: 3)
    assert page(runtime)["test_everywhere", ""] == 3


async def test_the_endpoints_that_have_metrics_are_bounded_in_number(runtime: DistributedRuntime) -> None:
    for number in range(SCOPES_MAX):
        runtime.exposition.scope("shop", "till", f"e{number}")
    with pytest.raises(DynamoError, match="10000 endpoints"):
        runtime.exposition.scope("shop", "till", "one more")


async def test_a_metric_that_has_the_name_of_one_of_the_runtime_is_left_out(
    world: World, runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.endpoint("shop.till.sell").metrics.add_text(lambda: "dynamo_client_requests 1\n")
    page(runtime)
    assert "the metric dynamo_client_requests of" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "test_pears_total 3\n",
        "# TYPE test_pears_total gauge\ntest_pears_total 3\n",
        "# TYPE test_pears counter\ntest_pears_total 3\n",
        "# TYPE test_pears summary\ntest_pears_count 3\n",
        "dynamo_component_requests_total 3\n",
    ],
)
async def test_two_metrics_that_share_one_name_on_the_page_do_not_break_it(
    runtime: DistributedRuntime, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = runtime.endpoint("shop.till.sell")
    pears = endpoint.metrics.counter("test_pears", "Pears")
    before = pears.get()
    pears.inc()
    endpoint.metrics.add_text(lambda: text)
    labels = "dynamo_component=till,dynamo_endpoint=sell,dynamo_namespace=shop"
    assert page(runtime)["test_pears_total", labels] == before + 1
    assert "is left out: another one has its name" in caplog.text
