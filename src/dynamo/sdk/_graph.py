"""The graph behind a service: which services run, in which order, and whether they fit together."""

from __future__ import annotations

import os
import sys
from graphlib import CycleError, TopologicalSorter

from dynamo._core.errors import ConfigError
from dynamo.sdk._call_check import check_calls
from dynamo.sdk._edges import check_edge, not_servable
from dynamo.sdk._handler import argument_reader
from dynamo.sdk._hooks import HookKind
from dynamo.sdk._options import unknown_name
from dynamo.sdk._outline import Outline, outline_of
from dynamo.sdk._runner_map import external_services
from dynamo.sdk._service import Service


def outline(entry: Service[object]) -> Outline:
    """Check the graph behind a service and say what its parent must know. Raises `ConfigError` if it cannot work."""
    services = reachable(entry)
    _check_external(entry)
    check(services)
    return Outline(
        services=[outline_of(service) for service in services],
        callees_first=[[service.name for service in group] for group in callees_first(services)],
        known=sorted({service.name for service in _possible(services)}),
    )


def reachable(entry: Service[object]) -> list[Service[object]]:
    """Return the entry and everything that it depends on, breadth first.

    Services that run elsewhere are left out, and what only they depend on.
    """
    return _reachable(entry, set(external_services(os.environ)))


def callees_first(services: list[Service[object]]) -> list[list[Service[object]]]:
    """Return the services in groups, each of which depends only on groups before it.

    Raises `ConfigError` for a cycle.
    """
    sorter: TopologicalSorter[Service[object]] = TopologicalSorter()
    for service in services:
        sorter.add(service, *(target for target in service.edges().values() if target in services))
    try:
        sorter.prepare()
    except CycleError as error:
        names = " -> ".join(service.name for service in reversed(error.args[1]))
        raise ConfigError(f"the services depend on each other in a circle: {names}") from error
    groups = []
    while sorter.is_active():
        ready = list(sorter.get_ready())
        groups.append(ready)
        sorter.done(*ready)
    return groups


def check(services: list[Service[object]]) -> None:
    """Raise `ConfigError` for a graph that cannot work, before anything of it is started."""
    for service in services:
        if service.is_interface:
            raise ConfigError(not_servable(service, services))
    callees_first(services)
    _check_names(services)
    for service in services:
        _check_service(service)
        for name, target in service.edges().items():
            check_edge(service, name, target)
        check_calls(service)


def _reachable(entry: Service[object], elsewhere: set[str]) -> list[Service[object]]:
    found = [entry]
    for service in found:
        targets = [target for target in service.edges().values() if target.name not in elsewhere]
        found += [target for target in dict.fromkeys(targets) if target not in found]
    return found


def _possible(services: list[Service[object]]) -> list[Service[object]]:
    """Return the services, those that linking removed, and those beside them in their modules."""
    found = list(services)
    for service in found:
        module = getattr(sys.modules.get(service.inner.__module__), "__dict__", {})
        beside = [value for value in module.values() if isinstance(value, Service)]
        named = [*(dependency.on for dependency in service.dependencies.values()), *service.edges().values()]
        found += [other for other in dict.fromkeys([*named, *beside]) if other not in found]
    return found


def _check_external(entry: Service[object]) -> None:
    callees = [service.name for service in _reachable(entry, set())[1:]]
    for name in external_services(os.environ):
        if name == entry.name:
            raise ConfigError(f"--depends says that {name} runs elsewhere, but it is what this graph serves")
        if not callees:
            raise ConfigError(f"--depends names {name}, but {entry.name} depends on nothing")
        if name not in callees:
            raise ConfigError(f"--depends: {unknown_name('service', name, callees)}")


def _check_names(services: list[Service[object]]) -> None:
    names: dict[str, Service[object]] = {}
    addresses: dict[tuple[str, str], Service[object]] = {}
    for service in services:
        if names.setdefault(service.name, service) is not service:
            raise ConfigError(f"two services are named {service.name}; rename one of the classes")
        if service.options.dynamo.enabled:
            other = addresses.setdefault(service.dynamo_address(), service)
            if other is not service:
                where = "/".join(service.dynamo_address())
                raise ConfigError(f"{other.name} and {service.name} have the same address {where}; set dynamo.name")


def _check_service(service: Service[object]) -> None:
    for spec in service.plane_endpoints:
        try:
            argument_reader(spec)
        except TypeError as error:
            raise ConfigError(str(error)) from error
    idle = not service.endpoints and service.app is None and not service.hooks(HookKind.START)
    if idle and service.inner.__init__ is object.__init__:
        raise ConfigError(
            f"{service.name} would do nothing: it has no endpoint, no app, no startup hook and no __init__; "
            "mark a method with @dynamo_endpoint"
        )
