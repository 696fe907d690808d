"""A wrong argument to a function of the SDK is an error that names it, what was given, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from dynamo._core.errors import ConfigError
from dynamo.sdk import (
    AbstractService,
    abstract_endpoint,
    api,
    async_on_shutdown,
    async_on_start,
    depends,
    dynamo_endpoint,
    endpoint,
    liveness,
    readiness,
    service,
    service_of,
)
from dynamo.sdk.lib.config import ServiceConfig
from dynamo.sdk.lib.service import DynamoConfig, LeaseConfig, LinkedServices


@service
class Worker:
    @dynamo_endpoint()
    async def generate(self, request: str) -> str:
        return request


@service
class Caller:
    worker = depends(Worker)


class Undecorated(AbstractService):
    pass


def declare(**keywords: object) -> object:
    """Decorate a class with keywords that no type checker would let pass."""
    decorate: Callable[..., Callable[[type], object]] = service
    return decorate(**keywords)(type("Declared", (), {}))


def call(function: Callable[..., object], *args: object, **keywords: object) -> object:
    return function(*args, **keywords)


DECLARATIONS = [
    ({"workers": 0}, "workers: must be at least 1, not 0"),
    ({"workers": "many"}, "workers: must be a whole number, not 'many'"),
    ({"workers": True}, "workers: must be a whole number, not True"),
    ({"worker": 1}, "unknown keyword 'worker'; did you mean 'workers'"),
    ({"resources": 5}, "resources: must be a mapping, not 5"),
    ({"resources": {"gpus": 1}}, "resources: unknown key 'gpus'; did you mean 'gpu'"),
    ({"resources": {"gpu": -1}}, "resources.gpu: must be at least 0, not -1"),
    ({"resources": {"gpu": 1.5}}, "resources.gpu: 1.5 is not supported"),
    ({"resources": {"cpu": "x"}}, "resources.cpu: Invalid CPU format: x; write"),
    ({"resources": {"memory": "x"}}, "resources.memory: Invalid Memory format: x; write"),
    ({"dynamo": {"namspace": "x"}}, "dynamo: unknown key 'namspace'; did you mean 'namespace'"),
    ({"dynamo": {"namespace": 5}}, "dynamo.namespace: must be text, not 5"),
    ({"dynamo": {"enabled": "yes"}}, "dynamo.enabled: must be true or false, not 'yes'"),
    ({"dynamo": {"custom_lease": {"ttl": 0}}}, "dynamo.custom_lease.ttl: must be more than 0, not 0"),
    ({"image": 5}, "image: must be text, not 5"),
    ({"envs": 5}, "envs: must be a mapping, not 5"),
    ({"envs": {"a=b": 1}}, "envs: 'a=b' cannot be the name"),
    ({"labels": {"a": 5}}, "labels.a: must be text, not 5"),
    ({"traffic": {"timeout": 0}}, "traffic.timeout: must be more than 0, not 0"),
    ({"app": 5}, "app must be a FastAPI application, got int"),
]


@pytest.mark.parametrize(("keywords", "message"), DECLARATIONS)
def test_a_wrong_keyword_of_service_is_named(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError) as raised:
        declare(**keywords)
    assert message in str(raised.value)


CALLS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: call(service, 5), TypeError, "service() decorates a class, got 5"),
    (lambda: call(service, Worker), TypeError, "only be applied once"),
    (lambda: call(service_of, 5), TypeError, "5 is not decorated with @service()"),
    (lambda: call(depends), TypeError, "expects a class decorated with @service(), got None"),
    (lambda: call(depends, 5), TypeError, "expects a class decorated with @service(), got 5"),
    (lambda: call(depends, math), TypeError, "got the module math"),
    (lambda: call(depends, Undecorated), TypeError, "got Undecorated"),
    (lambda: call(depends, Worker, urll="x"), TypeError, "unexpected keyword argument 'urll'"),
    (lambda: call(depends, Worker, url="x"), TypeError, "url names a remote deployment; write"),
    (lambda: call(endpoint, 5), TypeError, "an endpoint must be a method, got int"),
    (lambda: call(endpoint, transports=[]), ValueError, "transports is empty"),
    (lambda: call(endpoint, transports=5), TypeError, "transports must be a list of DynamoTransport, not 5"),
    (lambda: call(endpoint, transports=["x"]), ValueError, "transports: 'x' is not a valid DynamoTransport; there are"),
    (lambda: call(endpoint, http_method="GET"), ValueError, "http_method can only be specified"),
    (lambda: call(api, http_method="FETCH"), ValueError, "http_method 'FETCH' is none of GET"),
    (lambda: call(api, http_method=5), ValueError, "http_method 5 is none of GET"),
    (lambda: call(api, 5), TypeError, "an endpoint must be a method, got int"),
    (lambda: call(dynamo_endpoint, is_api="no"), TypeError, "is_api must be True or False, not 'no'"),
    (lambda: call(dynamo_endpoint(), 5), TypeError, "an endpoint must be a method, got int"),
    (lambda: call(abstract_endpoint, 5), TypeError, "an abstract endpoint must be a method, got int"),
    (lambda: call(abstract_endpoint, "a b"), TypeError, "'a b' is not a valid endpoint name: use"),
    (lambda: call(async_on_start, 5), TypeError, "a hook must be a method, got 5"),
    (lambda: call(async_on_shutdown(), 5), TypeError, "a hook must be a method, got 5"),
    (lambda: call(liveness, "x"), TypeError, "a hook must be a method, got 'x'"),
    (lambda: call(readiness, "x"), TypeError, "a hook must be a method, got 'x'"),
    (lambda: call(service_of(Caller).link, 5), ValueError, "link must be passed a Service, got int"),
    (lambda: call(service_of(Caller).link, Caller), ValueError, "Caller does not fulfill any dependencies"),
    (
        lambda: call(service_of(Worker).get_endpoint, "x"),
        ValueError,
        "No endpoint 'x' found on service 'Worker'; it has",
    ),
    (lambda: call(service_of(Worker).hooks, "strt"), ValueError, "kind 'strt' is none of start"),
    (lambda: call(LinkedServices.register_edge, 5, Worker), TypeError, "5 is not decorated with @service()"),
    (lambda: call(ServiceConfig.from_json, 5), TypeError, "text must be a JSON object of sections, not 5"),
    (lambda: call(ServiceConfig.from_json, "[]"), ConfigError, "must be a JSON object that maps"),
    (lambda: call(ServiceConfig().require, "A", "key"), ValueError, "A.key must be specified"),
    (lambda: call(call(ServiceConfig, {"A": 5}).require, "A", "k"), ValueError, "A must be a mapping"),  # type: ignore[attr-defined]
    (lambda: call(call(ServiceConfig, {"A": 5}).as_args, "A"), ValueError, "A must be a mapping"),  # type: ignore[attr-defined]
    (lambda: call(ServiceConfig().as_args, "A", 5), TypeError, "prefix must be what the keys begin with, not 5"),
    (lambda: call(DynamoConfig, namspace="x"), ConfigError, "unknown key 'namspace'; did you mean 'namespace'"),
    (lambda: call(DynamoConfig, namespace=""), ConfigError, "namespace: '' is not a valid name: use"),
    (lambda: call(LeaseConfig, ttl=-1), ConfigError, "ttl: must be more than 0, not -1"),
]


@pytest.mark.parametrize(("make", "error", "message"), CALLS, ids=[message for _, _, message in CALLS])
def test_a_wrong_argument_is_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)
