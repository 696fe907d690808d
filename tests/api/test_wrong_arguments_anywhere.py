"""One rule for everything public: a wrong argument is a `TypeError` or a `ValueError` that names the parameter.

Each function and class is called as it should be, but for one argument at a time, which is something that none of them
takes. `InvalidArgument` and `ConfigError` are both of them `ValueError`.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pydantic import BaseModel

from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._internal import ModelDeploymentCard
from dynamo.cli._public_names import public_names
from dynamo.llm import EngineType, ModelInput, ModelType
from dynamo.runtime import Client, DistributedRuntime, DynamoError
from dynamo.runtime.stability import stability_of
from dynamo.sdk import DynamoTransport

MODULES = ("dynamo.llm", "dynamo.metrics", "dynamo.runtime", "dynamo.sdk")


class Odd:
    """Something that nothing takes."""

    def __repr__(self) -> str:
        return "<Odd>"


class Model(BaseModel):
    """A request, or a response."""


class Engine:
    async def generate(self, request: object, context: object) -> None: ...


async def handler(request: object) -> int:
    return 1


Arguments = dict[str, object]
#: Messages and records that programs make of values that they were given, or that take whatever is there: whoever
#: sends, routes by or shows them checks them as a whole.
UNCHECKED = {
    "dynamo.llm.Candidate", "dynamo.llm.CompletionUsage", "dynamo.llm.EngineOutput", "dynamo.llm.OutputOptions",
    "dynamo.llm.OverlapScores", "dynamo.llm.PreprocessedRequest", "dynamo.llm.PromptTokensDetails",
    "dynamo.llm.RouterConfigOverride", "dynamo.llm.RoutingConstraints", "dynamo.llm.SamplingOptions",
    "dynamo.llm.StopConditions", "dynamo.llm.TopLogprob", "dynamo.runtime.Annotated", "dynamo.runtime.Event",
    "dynamo.runtime.Gap", "dynamo.metrics.Metrics",
}  # fmt: skip


class World:
    """What there is to give."""

    def __init__(self, runtime: DistributedRuntime, client: Client, card: ModelDeploymentCard) -> None:
        self.runtime = runtime
        self.client = client
        self.card = card
        self.endpoint = runtime.endpoint("a.b.c")
        self.component = runtime.namespace("a").component("b")


#: What each is given when it is called as it should be; what is not named here keeps its default until its turn comes.
CALLS: dict[str, Callable[[World], Arguments]] = {
    "dynamo.llm.ApproxKvIndexer": lambda w: {"component": w.component, "kv_block_size": 16},
    "dynamo.llm.Backend": lambda w: {"mdc": w.card, "endpoint": w.endpoint},
    "dynamo.llm.ForwardPassMetrics": lambda w: {},
    "dynamo.llm.HttpAsyncEngine": lambda w: {"generator": handler},
    "dynamo.llm.HttpError": lambda w: {"code": 400, "message": "no"},
    "dynamo.llm.HttpService": lambda w: {},
    "dynamo.llm.EntrypointArgs": lambda w: {"engine_type": EngineType.Echo},
    "dynamo.llm.KvIndexer": lambda w: {"component": w.component, "kv_block_size": 16},
    "dynamo.llm.KvMetricsAggregator": lambda w: {"component": w.component},
    "dynamo.llm.KvPublisher": lambda w: {"endpoint": w.endpoint, "kv_block_size": 16},
    "dynamo.llm.KvRecorder": lambda w: {"component": w.component},
    "dynamo.llm.KvRouter": lambda w: {"endpoint": w.endpoint, "block_size": 16},
    "dynamo.llm.KvRouterConfig": lambda w: {},
    "dynamo.llm.KvStats": lambda w: {},
    "dynamo.llm.LoadThresholdConfig": lambda w: {},
    "dynamo.llm.ModelConfig": lambda w: {"path": "model"},
    "dynamo.llm.OAIChatPreprocessor": lambda w: {
        "mdc": w.card, "current_endpoint": w.endpoint, "next_endpoint": w.endpoint.sibling("d"),
    },
    "dynamo.llm.PolicyClass": lambda w: {"name": "gold"},
    "dynamo.llm.PythonAsyncEngine": lambda w: {"generator": handler},
    "dynamo.llm.RouterConfig": lambda w: {},
    "dynamo.llm.SpecDecodeStats": lambda w: {},
    "dynamo.llm.WorkerStats": lambda w: {},
    "dynamo.llm.compute_block_hash_for_seq": lambda w: {"tokens": [1] * 16, "kv_block_size": 16},
    "dynamo.llm.fetch_llm": lambda w: {"name": "a/b"},
    "dynamo.llm.log_message": lambda w: {"level": "info", "message": "m", "module": "m", "file": "f", "line": 1},
    "dynamo.llm.make_engine": lambda w: {"runtime": w.runtime, "args": None},
    "dynamo.llm.register_llm": lambda w: {
        "model_input": ModelInput.Tokens, "model_type": ModelType.Chat, "endpoint": w.endpoint, "model_path": "model",
    },
    "dynamo.llm.register_model": lambda w: {
        "model_input": ModelInput.Tokens, "model_type": ModelType.Chat, "endpoint": w.endpoint, "model_path": "model",
        "ignore_weights": True,
    },
    "dynamo.llm.run_input": lambda w: {"runtime": w.runtime, "input": "http", "engine": None},
    "dynamo.llm.serve_engine": lambda w: {"endpoint": w.endpoint, "engine": Engine()},
    "dynamo.llm.unregister_llm": lambda w: {"endpoint": w.endpoint},
    "dynamo.metrics.counter": lambda w: {"name": "odd_counter", "documentation": "Odd"},
    "dynamo.metrics.gauge": lambda w: {"name": "odd_gauge", "documentation": "Odd"},
    "dynamo.metrics.histogram": lambda w: {"name": "odd_histogram", "documentation": "Odd"},
    "dynamo.metrics.scope": lambda w: {},
    "dynamo.runtime.DistributedRuntime": lambda w: {},
    "dynamo.runtime.QueueLimits": lambda w: {},
    "dynamo.runtime.StreamTimeouts": lambda w: {},
    "dynamo.runtime.UnaryClient": lambda w: {"client": w.client},
    "dynamo.runtime.dynamo_endpoint": lambda w: {"request_model": Model, "response_model": Model},
    "dynamo.runtime.dynamo_worker": lambda w: {},
    "dynamo.runtime.serve_unary_endpoint": lambda w: {"endpoint": w.endpoint, "handler": handler},
    "dynamo.sdk.abstract_dynamo_endpoint": lambda w: {},
    "dynamo.sdk.api": lambda w: {},
    "dynamo.sdk.async_on_shutdown": lambda w: {},
    "dynamo.sdk.async_on_start": lambda w: {},
    "dynamo.sdk.depends": lambda w: {},
    "dynamo.sdk.dynamo_endpoint": lambda w: {},
    "dynamo.sdk.endpoint": lambda w: {"transports": [DynamoTransport.HTTP]},
    "dynamo.sdk.liveness": lambda w: {},
    "dynamo.sdk.readiness": lambda w: {},
    "dynamo.sdk.service": lambda w: {},
    "dynamo.sdk.service_of": lambda w: {},
}  # fmt: skip

#: Parameters that are objects of a program's own, of older forms, or come to nothing before the others are right.
NOT_LOOKED_AT = {
    ("dynamo.llm.KvRouter", "client"), ("dynamo.llm.KvRouter", "indexer"), ("dynamo.llm.KvRouter", "rng"),
    ("dynamo.llm.KvRouter", "workers"), ("dynamo.llm.compute_block_hash_for_seq", "is_eagle"),
    ("dynamo.llm.make_engine", "args"), ("dynamo.llm.register_llm", "config"), ("dynamo.llm.run_input", "input"),
    ("dynamo.runtime.DistributedRuntime", "discovery_backend"), ("dynamo.runtime.DistributedRuntime", "enable_nats"),
    ("dynamo.runtime.DistributedRuntime", "is_static"),
}  # fmt: skip

#: What a message says where it does not name the parameter: of decorators, what is decorated.
SAID = {
    ("dynamo.llm.compute_block_hash_for_seq", "tokens"): "token_ids",
    ("dynamo.sdk.abstract_dynamo_endpoint", "name"): "an abstract endpoint must be a method",
    ("dynamo.sdk.api", "name"): "an endpoint must be a method",
    ("dynamo.sdk.depends", "on"): "depends() expects a class",
    ("dynamo.sdk.dynamo_endpoint", "name"): "an endpoint must be a method",
    ("dynamo.sdk.endpoint", "name"): "an endpoint must be a method",
    ("dynamo.sdk.service", "cls"): "service() decorates a class",
}


def public_callables() -> Iterator[str]:
    """Yield what of the public names takes arguments, and is neither an error nor an older name."""
    for module in MODULES:
        for name in sorted(public_names(module) or ()):
            value = getattr(importlib.import_module(module), name)
            is_error = isinstance(value, type) and issubclass(value, DynamoError)
            if not callable(value) or is_error or "__deprecated__" in vars(value) or not parameters_of(value):
                continue
            yield f"{module}.{name}"


def parameters_of(value: object) -> list[inspect.Parameter]:
    mark = stability_of(value)
    if mark is None or not mark.constructor or (isinstance(value, type) and issubclass(value, enum.Enum)):
        return []
    parameters = inspect.signature(value).parameters.values() if callable(value) else ()
    return [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def found(name: str) -> Callable[..., object]:
    module, _, last = name.rpartition(".")
    value: Callable[..., object] = getattr(importlib.import_module(module), last)
    return value


CASES = [
    (name, one.name) for name in CALLS for one in parameters_of(found(name)) if (name, one.name) not in NOT_LOOKED_AT
]


def test_everything_public_that_takes_arguments_is_here() -> None:
    looked_at = {found(name) for name in CALLS}  # under one of its names
    assert {name for name in public_callables() if found(name) not in looked_at} == UNCHECKED


@pytest.fixture
async def world(tiny_model: Path) -> AsyncIterator[World]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        card = ModelDeploymentCard.from_local_path(str(tiny_model))
        yield World(runtime, await runtime.client("a.b.c"), card)


@pytest.mark.parametrize(("name", "parameter"), CASES)
async def test_a_wrong_argument_is_a_type_error_or_a_value_error_that_names_it(
    world: World, name: str, parameter: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        await call(found(name), {**CALLS[name](world), parameter: Odd()})
    assert SAID.get((name, parameter), parameter) in str(raised.value)
    assert "Odd" in str(raised.value)


async def call(function: Callable[..., object], arguments: Arguments) -> None:
    """Call it, by place where names are not taken, and as what it gives is used."""
    by_place = [name for name, one in inspect.signature(function).parameters.items() if one.kind is one.POSITIONAL_ONLY]
    result = function(*[arguments.pop(name) for name in by_place if name in arguments], **arguments)
    if isinstance(result, AbstractContextManager):
        with result:
            pass
    if inspect.isawaitable(result):
        await result


def test_both_errors_of_wrong_values_are_value_errors() -> None:
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(ConfigError, ValueError)
