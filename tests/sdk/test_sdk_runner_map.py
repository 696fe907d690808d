"""Services that run elsewhere: how they are named, and what that changes in a graph."""

from __future__ import annotations

import json

import pytest

from dynamo.runtime import DynamoError
from dynamo.sdk import AbstractService, Service, abstract_endpoint, depends, endpoint, service, service_of
from dynamo.sdk._graph import outline, reachable
from dynamo.sdk._runner_map import RUNNER_MAP_VARIABLE, external_services, parse_depends


class Worker:
    @endpoint
    async def generate(self, request: str) -> str:
        return request


class Engine(AbstractService):
    @abstract_endpoint
    async def run(self, request: str) -> str:
        raise NotImplementedError


def make(name: str, **edges: object) -> Service[object]:
    """A service with these dependencies."""
    return service(type(name, (Worker,), {key: depends(target) for key, target in edges.items()}))  # type: ignore[call-overload]


@pytest.fixture
def top() -> Service[object]:
    """Top -> Middle -> Back, and Top -> Other."""
    middle = make("Middle", back=make("Back"))
    return make("Top", middle=middle, other=make("Other"))


def elsewhere(monkeypatch: pytest.MonkeyPatch, *entries: str) -> None:
    monkeypatch.setenv(RUNNER_MAP_VARIABLE, json.dumps(parse_depends(entries)))


def test_entries_are_names_and_addresses() -> None:
    assert parse_depends(["A=dynamo://ns/comp", " B = dynamo://x/y "]) == {"A": "dynamo://ns/comp", "B": "dynamo://x/y"}
    assert parse_depends([]) == {}


@pytest.mark.parametrize("entry", ["", "A", "=dynamo://a/b", "A=", "dynamo://a/b"])
def test_an_entry_of_another_form_is_an_error(entry: str) -> None:
    with pytest.raises(DynamoError) as raised:
        parse_depends([entry])
    assert str(raised.value).startswith("Invalid format for --depends option. Use format 'name=value'")


@pytest.mark.parametrize(
    "address", ["ns/comp", "http://ns/comp", "dynamo://ns", "dynamo://a/b/c", "dynamo:///b", "dynamo://a b/c"]
)
def test_an_address_of_another_form_is_an_error_that_shows_the_right_one(address: str) -> None:
    with pytest.raises(DynamoError, match=r"--depends: .*; write A=dynamo://NAMESPACE/COMPONENT$"):
        parse_depends([f"A={address}"])


def test_a_service_named_twice_is_an_error() -> None:
    with pytest.raises(DynamoError, match="--depends names A twice: dynamo://a/b and dynamo://c/d"):
        parse_depends(["A=dynamo://a/b", "A=dynamo://c/d"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "DYNAMO_RUNNER_MAP is not JSON"),
        ("[]", "DYNAMO_RUNNER_MAP must be a JSON object"),
        ('{"A": 5}', "DYNAMO_RUNNER_MAP: 5 is no address; write A=dynamo://NAMESPACE/COMPONENT"),
    ],
)
def test_a_broken_map_is_an_error(text: str, message: str) -> None:
    with pytest.raises(DynamoError) as raised:
        external_services({RUNNER_MAP_VARIABLE: text})
    assert message in str(raised.value)


def test_without_a_map_nothing_runs_elsewhere() -> None:
    assert external_services({}) == external_services({RUNNER_MAP_VARIABLE: ""}) == {}


def test_a_service_that_runs_elsewhere_has_the_address_it_was_given(
    top: Service[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch, "Middle=dynamo://prod/middle")
    assert top.edges()["middle"].dynamo_address() == ("prod", "middle")
    assert top.edges()["other"].dynamo_address() == ("default", "Other")


def test_what_runs_elsewhere_is_not_started_nor_what_only_it_needs(
    top: Service[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch, "Middle=dynamo://prod/middle")
    found = outline(top)
    assert [entry.name for entry in found.services] == ["Top", "Other"]
    assert [sorted(group) for group in found.callees_first] == [["Other"], ["Top"]]
    assert {"Middle", "Back"} <= set(found.known)


def test_what_others_need_is_started_still(monkeypatch: pytest.MonkeyPatch) -> None:
    back = make("Back")
    top = make("Top", middle=make("Middle", back=back), back=back)
    elsewhere(monkeypatch, "Middle=dynamo://prod/middle")
    assert [service.name for service in reachable(top)] == ["Top", "Back"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Midle", "--depends: unknown service 'Midle'; did you mean 'Middle'?"),
        ("Top", "--depends says that Top runs elsewhere, but it is what this graph serves"),
    ],
)
def test_a_name_that_the_graph_does_not_call_is_an_error(
    top: Service[object], monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    elsewhere(monkeypatch, f"{name}=dynamo://a/b")
    with pytest.raises(DynamoError) as raised:
        outline(top)
    assert message in str(raised.value)


def test_a_service_that_depends_on_nothing_has_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch, "Other=dynamo://a/b")
    with pytest.raises(DynamoError, match="--depends names Other, but Alone depends on nothing"):
        outline(make("Alone"))


def test_an_interface_may_be_implemented_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    top = make("Top", engine=Engine)
    elsewhere(monkeypatch, "Engine=dynamo://prod/engine")
    assert [entry.name for entry in outline(top).services] == ["Top"]
    assert service_of(Engine).dynamo_address() == ("prod", "engine")


def test_an_interface_has_no_address_of_its_own() -> None:
    with pytest.raises(ValueError, match="'Engine' has no address: it is an interface; link a service to it"):
        service_of(Engine).dynamo_address()


def test_a_disabled_service_may_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    disabled: Service[object] = service(dynamo={"enabled": False})(type("Disabled", (Worker,), {}))
    elsewhere(monkeypatch, "Disabled=dynamo://prod/disabled")
    assert [entry.name for entry in outline(make("Top", disabled=disabled)).services] == ["Top"]
