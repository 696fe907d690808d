"""The graph: edges, links, what they remove, and what cannot work."""

from __future__ import annotations

import pytest

from dynamo.runtime import DynamoError
from dynamo.sdk import Service, depends, dynamo_endpoint, service, service_of
from dynamo.sdk._graph import callees_first, check, reachable
from dynamo.sdk.lib.service import LinkedServices


class Worker:
    @dynamo_endpoint
    async def generate(self, request: str) -> str:
        return request


def make(name: str, **edges: Service[object]) -> Service[object]:
    """A service with these dependencies."""
    return service(type(name, (Worker,), {key: depends(target) for key, target in edges.items()}))


@pytest.fixture
def graph() -> dict[str, Service[object]]:
    """A{b,c,e}, B{c}, C, E."""
    c, e = make("C"), make("E")
    b = make("B", c=c)
    return {"A": make("A", b=b, c=c, e=e), "B": b, "C": c, "E": e}


def names(services: list[Service[object]]) -> list[str]:
    return [service.name for service in services]


def test_without_links_every_edge_is_kept(graph: dict[str, Service[object]]) -> None:
    assert names(reachable(graph["A"])) == ["A", "B", "C", "E"]


def test_a_link_removes_the_other_edges_of_both_ends(graph: dict[str, Service[object]]) -> None:
    graph["A"].link(graph["B"])
    assert list(graph["A"].edges()) == ["b"]
    assert list(graph["B"].edges()) == []
    assert names(reachable(graph["A"])) == ["A", "B"]


def test_links_chain_and_branch(graph: dict[str, Service[object]]) -> None:
    graph["A"].link(graph["B"]).link(graph["C"])
    graph["A"].link(graph["E"])
    assert list(graph["A"].edges()) == ["b", "e"]
    assert list(graph["B"].edges()) == ["c"]


def test_a_service_that_was_never_linked_keeps_its_edges(graph: dict[str, Service[object]]) -> None:
    top = make("Top", a=graph["A"])
    graph["B"].link(graph["C"])
    assert names(reachable(top)) == ["Top", "A", "B", "C", "E"]


def test_a_link_to_a_subclass_replaces_the_dependency(graph: dict[str, Service[object]]) -> None:
    special: Service[object] = service(type("Special", (graph["C"].inner,), {}))
    graph["B"].link(special)
    assert graph["B"].edges() == {"c": special}


def test_a_link_to_something_that_is_no_dependency_is_an_error(graph: dict[str, Service[object]]) -> None:
    with pytest.raises(ValueError, match="E does not fulfill any dependencies required by B"):
        graph["B"].link(graph["E"])
    with pytest.raises(ValueError, match="link must be passed a Service, got str"):
        graph["B"].link("E")  # type: ignore[arg-type]


def test_a_link_to_a_class_that_is_no_service_names_it(graph: dict[str, Service[object]]) -> None:
    with pytest.raises(ValueError, match="link must be passed a Service, got Worker, a class without @service"):
        graph["B"].link(Worker)


def test_a_class_beneath_a_service_that_is_not_decorated_itself_is_no_service(
    graph: dict[str, Service[object]],
) -> None:
    bare = type("Bare", (graph["C"].inner,), {})
    with pytest.raises(ValueError, match="link must be passed a Service, got Bare, a class without @service"):
        graph["B"].link(bare)
    with pytest.raises(TypeError, match=r"depends\(\) expects a class decorated with @service\(\), got Bare"):
        depends(bare)


def test_a_link_returns_what_was_linked(graph: dict[str, Service[object]]) -> None:
    assert graph["A"].link(graph["B"]) is graph["B"]


def test_linking_again_changes_nothing(graph: dict[str, Service[object]]) -> None:
    graph["A"].link(graph["B"])
    graph["A"].link(graph["B"])
    assert names(reachable(graph["A"])) == ["A", "B"]


def test_a_refused_link_changes_nothing(graph: dict[str, Service[object]]) -> None:
    with pytest.raises(ValueError, match="does not fulfill"):
        graph["B"].link(graph["E"])
    assert names(reachable(graph["A"])) == ["A", "B", "C", "E"]


def test_linked_subclasses_replace_each_other(graph: dict[str, Service[object]]) -> None:
    one: Service[object] = service(type("One", (graph["C"].inner,), {}))
    two: Service[object] = service(type("Two", (graph["C"].inner,), {}))
    graph["B"].link(one)
    graph["B"].link(two)
    assert graph["B"].edges() == {"c": two}
    graph["B"].link(graph["C"])
    assert graph["B"].edges() == {"c": graph["C"]}


def test_a_dependency_on_the_very_service_is_meant_before_one_on_its_base(graph: dict[str, Service[object]]) -> None:
    special: Service[object] = service(type("Special", (graph["C"].inner,), {}))
    top = make("Top", base=graph["C"], special=special)
    top.link(special)
    assert list(top.edges()) == ["special"]


def test_a_service_with_two_edges_to_another_runs_it_once(graph: dict[str, Service[object]]) -> None:
    twice = make("Twice", first=graph["C"], second=graph["C"])
    assert names(reachable(twice)) == ["Twice", "C"]


def test_links_are_seen_in_the_edges_of_linked_services(graph: dict[str, Service[object]]) -> None:
    assert LinkedServices.register_edge(graph["A"], graph["B"]) is graph["B"]
    LinkedServices.register_edge(graph["A"], graph["E"])
    assert LinkedServices.edges[graph["A"]] == {graph["B"], graph["E"]}
    assert graph["B"] not in LinkedServices.edges
    kept = LinkedServices.remove_unused_edges()
    assert (kept[graph["A"]], kept[graph["B"]]) == ({graph["B"], graph["E"]}, set())
    assert graph["C"] not in kept


def test_a_link_that_fits_twice_is_an_error(graph: dict[str, Service[object]]) -> None:
    twice = make("Twice", first=graph["C"], second=graph["C"])
    with pytest.raises(ValueError, match=r"C fulfills multiple dependencies required by Twice: \['first', 'second'\]"):
        twice.link(graph["C"])


def test_a_removed_edge_is_none_on_an_instance(graph: dict[str, Service[object]]) -> None:
    graph["A"].link(graph["B"])
    assert getattr(graph["A"](), "c") is None  # noqa: B009


def test_an_edge_outside_a_running_service_says_what_to_do(graph: dict[str, Service[object]]) -> None:
    with pytest.raises(RuntimeError, match=r"A.c works in a running service; in a test, set the attribute"):
        getattr(graph["A"](), "c")  # noqa: B009


async def test_the_client_of_an_edge_is_there_in_a_running_service_only(graph: dict[str, Service[object]]) -> None:
    with pytest.raises(ValueError, match="Runtime not set for the dependency on C: its service does not run here"):
        await graph["A"].dependencies["c"].get_endpoint("generate")


def test_an_instance_may_set_a_fake(graph: dict[str, Service[object]]) -> None:
    instance = graph["A"]()
    fake = object()
    instance.__dict__["c"] = fake
    assert getattr(instance, "c") is fake  # noqa: B009


def test_a_mixin_shares_its_edges_but_not_its_links(graph: dict[str, Service[object]]) -> None:
    class Mixin(Worker):
        c = depends(graph["C"])

    one: Service[object] = service(type("One", (Mixin,), {}))
    two: Service[object] = service(type("Two", (Mixin,), {"e": depends(graph["E"])}))
    two.link(graph["E"])
    assert list(one.edges()) == ["c"]
    assert list(two.edges()) == ["e"]


def test_callees_come_first(graph: dict[str, Service[object]]) -> None:
    groups = [sorted(names(group)) for group in callees_first(reachable(graph["A"]))]
    assert groups == [["C", "E"], ["B"], ["A"]]


def test_a_circle_is_named() -> None:
    base = make("Base")
    caller = make("Caller", base=base)
    special: Service[object] = service(type("Special", (base.inner,), {"caller": depends(caller)}))
    special.link(caller).link(special)
    with pytest.raises(DynamoError, match=r"in a circle: (Caller -> Special -> Caller|Special -> Caller -> Special)"):
        check(reachable(special))


def test_two_services_of_one_address_are_an_error() -> None:
    other: Service[object] = service(dynamo={"name": "C"})(type("Other", (Worker,), {}))
    with pytest.raises(DynamoError, match="C and Other have the same address default/C"):
        check(reachable(make("Top", c=make("C"), other=other)))


def test_two_services_of_one_name_are_an_error() -> None:
    other: Service[object] = service(dynamo={"namespace": "other"})(type("C", (Worker,), {}))
    with pytest.raises(DynamoError, match="two services are named C"):
        check(reachable(make("Top", c=make("C"), other=other)))


def test_a_service_that_would_do_nothing_is_an_error() -> None:
    with pytest.raises(DynamoError, match="Idle would do nothing"):
        check([service(type("Idle", (), {}))])


def test_a_dependency_on_a_disabled_service_is_an_error() -> None:
    disabled: Service[object] = service(dynamo={"enabled": False})(type("Disabled", (Worker,), {}))
    with pytest.raises(DynamoError, match=r"Top.x depends on Disabled, whose dynamo.enabled is false"):
        check(reachable(make("Top", x=disabled)))


class Unresolvable:
    @dynamo_endpoint
    async def generate(self, request: Missing) -> str:  # type: ignore[name-defined]  # noqa: F821
        return ""


def test_a_request_type_that_is_unknown_at_run_time_is_an_error() -> None:
    with pytest.raises(DynamoError, match="the type 'Missing' of 'request' is unknown at run time"):
        check([service(type("Unresolved", (Unresolvable,), {}))])


def test_an_endpoint_that_cannot_be_called_is_an_error() -> None:
    class TooMany:
        @dynamo_endpoint
        async def generate(self, a: str, b: str, c: str) -> str:
            return a

    with pytest.raises(DynamoError, match=r"generate cannot serve an endpoint: it must take \(self, request\)"):
        check([service(type("TooManyService", (TooMany,), {}))])


def test_decorated_classes_link_by_their_service() -> None:
    @service
    class Callee(Worker): ...

    @service
    class Caller(Worker):
        callee = depends(Callee)

    assert service_of(Caller).link(service_of(Callee)) is service_of(Callee)
