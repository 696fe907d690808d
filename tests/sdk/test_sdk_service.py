"""`@service`: its forms, what it checks, and what the object knows."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import os
from dataclasses import dataclass
from types import MethodType
from typing import Generic, Optional, TypeVar

import pytest
from fastapi import FastAPI

from dynamo.runtime import DynamoError
from dynamo.sdk import DYNAMO_IMAGE, Service, api, depends, dynamo_endpoint, endpoint, service, service_of
from dynamo.sdk._endpoints import DynamoTransport
from dynamo.sdk._options import DynamoConfig

Item = TypeVar("Item")


@service
class Bare:
    def __init__(self, size: int = 1) -> None:
        self.size = size

    @dynamo_endpoint
    async def generate(self, request: str) -> str:
        return request


@service()
class Empty: ...


@service(
    dynamo={"namespace": "prod", "name": "worker"},
    resources={"gpu": "1", "cpu": 2, "memory": "20Gi"},
    workers=2,
    envs=[{"name": "A", "value": 1}],
    labels={"team": "x"},
    traffic={"timeout": 30},
    image="image:1",
)
class Full: ...


def test_all_forms_make_a_service_of_the_class() -> None:
    for decorated in (Bare, Empty, Full):
        assert isinstance(decorated, Service)
        assert isinstance(service_of(decorated).inner, type)
    assert service_of(Bare).name == "Bare"


def test_calling_a_service_builds_an_instance_of_the_class() -> None:
    instance = Bare(size=3)
    assert isinstance(instance, service_of(Bare).inner)
    assert instance.size == 3


def test_a_service_is_enabled_and_in_the_default_namespace() -> None:
    assert service_of(Bare).dynamo_address() == ("default", "Bare")


def test_options_are_read_into_their_types() -> None:
    options = service_of(Full).options
    assert service_of(Full).dynamo_address() == ("prod", "worker")
    assert (options.resources.gpu, options.resources.cpu, options.resources.memory) == (1.0, "2", "20Gi")
    assert (options.workers, options.image, options.labels) == (2, "image:1", {"team": "x"})
    assert options.envs == {"A": "1"}
    assert options.traffic.timeout == 30


def test_the_options_of_dynamo_may_be_an_object() -> None:
    options = Service(service_of(Bare).inner, service_of(Full).options).options
    assert isinstance(options.dynamo, DynamoConfig)

    @service(dynamo=DynamoConfig(namespace="a"))
    class A: ...

    assert service_of(A).dynamo_address() == ("a", "A")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"resource": {"gpu": 1}}, "unknown keyword 'resource'; did you mean 'resources'?"),
        ({"dynamo": {"namespce": "x"}}, "dynamo: unknown key 'namespce'; did you mean 'namespace'?"),
        ({"resources": {"gpus": 1}}, "resources: unknown key 'gpus'; did you mean 'gpu'?"),
        ({"workers": "abc"}, "workers: must be a whole number, not 'abc'"),
        ({"workers": 0}, "workers: must be at least 1, not 0"),
        ({"workers": True}, "workers: must be a whole number"),
        ({"resources": {"gpu": -1}}, "resources.gpu: must be at least 0, not -1.0"),
        ({"resources": {"gpu": 1.5}}, "resources.gpu: 1.5 is not supported"),
        ({"resources": {"cpu": "many"}}, "Invalid CPU format: many"),
        ({"resources": {"memory": "20GB"}}, "Invalid Memory format: 20GB"),
        ({"dynamo": {"namespace": "a b"}}, "'a b' is not a valid name"),
        ({"traffic": {"timeout": 0}}, "traffic.timeout: must be more than 0, not 0"),
        ({"envs": [{"name": "A"}]}, "envs: each entry must be a mapping of name and value"),
        ({"app": object()}, "app must be a FastAPI application, got object"),
    ],
)
def test_a_wrong_keyword_is_a_type_error_that_names_it(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError) as raised:
        service(**keywords)  # type: ignore[call-overload]
    assert message in str(raised.value)


def test_decorating_twice_is_an_error() -> None:
    with pytest.raises(TypeError, match="can only be applied once"):
        service()(service_of(Bare))  # type: ignore[arg-type]


def test_only_classes_are_decorated() -> None:
    with pytest.raises(TypeError, match="decorates a class"):
        service()("no class")  # type: ignore[arg-type]


def test_a_disabled_service_has_no_address() -> None:
    @service(dynamo={"enabled": False})
    class Disabled: ...

    with pytest.raises(ValueError, match="not configured as a Dynamo component"):
        service_of(Disabled).dynamo_address()


def test_service_args_override_the_decorator_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "Overridden": {
            "ServiceArgs": {"dynamo": {"namespace": "staging"}, "resources": {"memory": "64Gi"}, "workers": 8}
        }
    }
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps(config))

    @service(
        dynamo={"namespace": "prod", "name": "kept"}, resources={"gpu": 2}, workers=1, envs=[{"name": "A", "value": 1}]
    )
    class Overridden: ...

    options = service_of(Overridden).options
    assert service_of(Overridden).dynamo_address() == ("staging", "kept")
    assert (options.resources.gpu, options.resources.memory, options.workers) == (2.0, "64Gi", 8)
    assert options.envs == {"A": "1"}


def test_wrong_service_args_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Wrong": {"ServiceArgs": {"worker": 8}}}))
    with pytest.raises(DynamoError, match=r"Wrong.ServiceArgs: unknown key 'worker'; did you mean 'workers'\?"):

        @service
        class Wrong: ...


class Base:
    @dynamo_endpoint("chat/completions")
    async def chat(self, request: str) -> str:
        return request

    @endpoint
    async def hidden(self, request: str) -> str:
        return request


@service
class Derived(Base):
    @endpoint(transports=[DynamoTransport.DEFAULT, DynamoTransport.HTTP], http_method="put")
    async def both(self, request: str) -> str:
        return request

    @api
    async def web(self) -> str:
        return ""

    @dynamo_endpoint(is_api=True)
    async def old_web(self) -> str:
        return ""

    async def hidden(self, request: str) -> str:
        return request


def test_endpoints_are_found_through_the_bases_in_order() -> None:
    assert list(service_of(Derived).endpoints) == ["chat/completions", "both", "web", "old_web"]


def test_the_transports_of_an_endpoint_say_where_it_is_reached() -> None:
    plane = [spec.name for spec in service_of(Derived).plane_endpoints]
    web = [spec.name for spec in service_of(Derived).endpoints.values() if spec.on_http]
    assert plane == ["chat/completions", "both"]
    assert web == ["both", "web", "old_web"]
    assert service_of(Derived).get_endpoint("both").http_method == "PUT"


def test_an_unknown_endpoint_is_a_value_error_that_lists_them() -> None:
    with pytest.raises(ValueError, match=r"No endpoint 'nope' found on service 'Bare'; it has \['generate'\]"):
        service_of(Bare).get_endpoint("nope")


def test_two_endpoints_of_one_name_are_an_error() -> None:
    with pytest.raises(TypeError, match="two endpoints named 'a': one and two"):

        @service
        class Twice:
            @dynamo_endpoint("a")
            async def one(self, request: str) -> str:
                return request

            @dynamo_endpoint(name="a")
            async def two(self, request: str) -> str:
                return request


def test_an_http_method_needs_http() -> None:
    with pytest.raises(ValueError, match="http_method can only be specified"):
        endpoint(http_method="GET")
    with pytest.raises(ValueError, match="'FETCH' is none of GET"):
        api(http_method="FETCH")


def test_a_service_serves_http_if_it_has_an_app_or_a_route() -> None:
    @service(app=FastAPI())
    class WithApp: ...

    assert service_of(WithApp).has_http
    assert service_of(Derived).has_http
    assert not service_of(Bare).has_http


def test_depends_wants_a_service() -> None:
    with pytest.raises(TypeError, match=r"depends\(\) expects a class decorated with @service\(\), got Base"):
        depends(Base)


def test_depends_says_how_to_get_the_service_out_of_a_module() -> None:
    with pytest.raises(TypeError, match=r"got the module os\.path|got the module posixpath"):
        depends(os.path)  # type: ignore[call-overload]


@pytest.mark.parametrize("wanted", [None, 5, "Bare"])
def test_depends_without_a_service_says_what_it_got(wanted: object) -> None:
    with pytest.raises(TypeError, match=rf"depends\(\) expects a class decorated with @service\(\), got {wanted!r}"):
        depends(wanted)  # type: ignore[call-overload]


def test_depends_says_how_to_reach_what_runs_elsewhere() -> None:
    for keyword in ("url", "deployment", "cluster"):
        with pytest.raises(
            TypeError, match=rf"depends\(\): {keyword} names a remote deployment; .* --depends SomeServ"
        ):
            depends(**{keyword: "there"})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"depends\(\) got an unexpected keyword argument 'urll'"):
        depends(Bare, urll="there")  # type: ignore[call-overload]
    assert depends(Bare, url=None).on is service_of(Bare)  # type: ignore[call-overload]


def test_a_service_has_the_attributes_of_its_class() -> None:
    @service
    class Rich:
        """What it is for."""

        LIMIT = 5

        @classmethod
        def made(cls) -> Rich:
            return cls()

        @staticmethod
        def double(number: int) -> int:
            return 2 * number

    assert Rich.LIMIT == Rich.made().LIMIT == 5
    assert Rich.double(4) == 8
    assert Rich.__doc__ == "What it is for."
    assert (Rich.__name__, Rich.__module__) == ("Rich", __name__)
    assert inspect.signature(Bare) == inspect.signature(service_of(Bare).inner)
    with pytest.raises(AttributeError, match="service 'Rich' has no attribute 'nope'"):
        Rich.nope  # type: ignore[attr-defined]  # noqa: B018


def test_a_service_is_a_type_to_isinstance_and_issubclass() -> None:
    @service
    class Special(Bare): ...

    assert isinstance(Bare(), Bare)
    assert isinstance(Special(), Bare)
    assert not isinstance(5, Bare)
    assert issubclass(Special, Bare)
    assert not issubclass(int, Bare)


def test_a_service_can_stand_in_an_annotation_at_run_time() -> None:
    inner = service_of(Bare).inner
    assert Bare | None == Optional[inner]  # noqa: UP045
    assert None | Bare == Optional[inner]  # noqa: UP045


def test_a_service_is_built_as_a_plain_class_in_a_test() -> None:
    @service
    class Asking:
        bare = depends(Bare)

        @dynamo_endpoint
        async def ask(self, request: str) -> str:
            return await self.bare.generate(request)

    asking = Asking()
    asking.__dict__["bare"] = Bare()
    assert asyncio.run(asking.ask("yes")) == "yes"
    assert isinstance(service_of(Asking).inner().ask, MethodType)


def test_a_fake_is_assigned_to_the_attribute() -> None:
    @service
    class Asking:
        bare = depends(Bare)

    fake = Bare()
    asking = Asking()
    asking.bare = fake
    assert asking.bare is fake


def test_a_plain_subclass_of_a_service_has_its_edges_in_a_test() -> None:
    @service
    class Asking:
        bare = depends(Bare)

    class Spy(Asking): ...

    with pytest.raises(RuntimeError, match=r"Asking.bare works in a running service; in a test, set the attribute"):
        Spy().bare  # noqa: B018


def test_one_depends_for_two_attributes_is_refused() -> None:
    shared = depends(Bare)

    class First:
        one = shared

    assert service(First).edges() == {"one": service_of(Bare)}

    class Second:
        two = shared

    message = r"^Second.two is the same depends\(Bare\) as another attribute, one; write depends\(Bare\) for each$"
    with pytest.raises(TypeError, match=message):
        service(Second)
    assert service_of(First).edges() == {"one": service_of(Bare)}


def test_a_dependency_may_be_put_on_the_class_after_its_body() -> None:
    class Late: ...

    Late.bare = depends(Bare)  # type: ignore[attr-defined]
    assert service(Late).edges() == {"bare": service_of(Bare)}
    with pytest.raises(RuntimeError, match=r"Late.bare works in a running service"):
        Late().bare  # type: ignore[attr-defined]  # noqa: B018


def test_a_dependency_that_is_no_class_attribute_says_so() -> None:
    with pytest.raises(
        AttributeError, match=r"depends\(Bare\) has no attribute 'generate': it stands in the body of a"
    ):
        depends(Bare).generate  # type: ignore[attr-defined]  # noqa: B018
    assert copy.copy(depends(Bare)).on is service_of(Bare)


def test_a_generic_service_may_be_given_its_parameters() -> None:
    @service
    class Box(Generic[Item]):
        @endpoint
        async def put(self, request: str) -> str:
            return request

    class Asking:
        box = depends(Box[int])

    assert service(Asking).edges() == {"box": service_of(Box)}


def test_a_service_is_a_class_to_issubclass() -> None:
    assert issubclass(Bare, object)
    assert issubclass(Derived, Base)


def test_another_decorator_outside_names_the_order() -> None:
    with pytest.raises(AttributeError, match="@service must be the outermost decorator"):
        dataclass(service(type("Inside", (), {})))  # type: ignore[call-overload]


def test_a_dataclass_with_slots_is_a_service() -> None:
    @service
    @dataclass(slots=True)
    class Sized:
        size: int = 1

        @endpoint
        async def go(self, request: str) -> str:
            return request * self.size

    assert asyncio.run(Sized(size=3).go("a")) == "aaa"


def test_the_image_is_that_of_the_environment_or_a_default() -> None:
    assert os.environ.get("DYNAMO_IMAGE", "dynamo:latest-vllm") == DYNAMO_IMAGE


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "dynamo.sdk",
            "service dynamo_endpoint endpoint api depends dynamo_context async_on_start async_on_shutdown on_shutdown "
            "liveness readiness server_context DYNAMO_IMAGE AbstractService AbstractDynamoService abstract_endpoint "
            "abstract_dynamo_endpoint",
        ),
        ("dynamo.sdk.lib.config", "ServiceConfig"),
        ("dynamo.sdk.lib.image", "DYNAMO_IMAGE"),
        ("dynamo.sdk.lib.service", "LinkedServices LeaseConfig DynamoConfig"),
    ],
)
def test_everything_that_code_for_earlier_releases_imports_is_there(module: str, names: str) -> None:
    assert set(names.split()) <= set(importlib.import_module(module).__all__)


def test_a_service_can_be_copied() -> None:
    assert copy.deepcopy(service_of(Bare)).name == "Bare"


def test_a_class_may_inherit_from_a_service() -> None:
    @service
    class Special(Bare): ...

    assert issubclass(service_of(Special).inner, service_of(Bare).inner)
    assert service_of(Special).dynamo_address() == ("default", "Special")


def test_a_dependency_that_is_set_later_is_refused() -> None:
    @service
    class Early: ...

    with pytest.raises(TypeError, match=r"Early\.bare: depends\(\) stands in the body of a class"):
        Early.bare = depends(Bare)  # type: ignore[attr-defined]
