"""The ends of an edge: whether the service that is called is there, and is what its caller was promised.

A caller declares a dependency on an interface, or on a class, and linking puts another service in its place:
that one must have every endpoint of what it replaces, and take every request that is good for it.
"""

from __future__ import annotations

import os

from dynamo._core.errors import ConfigError
from dynamo.sdk._endpoints import EndpointSpec
from dynamo.sdk._request_models import misfit, request_model
from dynamo.sdk._runner_map import external_services
from dynamo.sdk._service import Service, service_of
from dynamo.sdk._source import place, plain_function


def check_edge(caller: Service[object], name: str, target: Service[object]) -> None:
    """Raise `ConfigError` if the dependency `name` of the caller cannot lead to `target`."""
    if target.name not in external_services(os.environ) and not target.options.dynamo.enabled:
        raise ConfigError(f"{caller.name}.{name} depends on {target.name}, whose dynamo.enabled is false")
    declared = caller.dependencies[name].on
    for promised in declared.plane_endpoints if declared is not target else []:
        spec = target.endpoints.get(promised.name)
        if spec is None or not spec.on_plane:
            raise ConfigError(
                f"{caller.name}.{name} is linked to {target.name}, which lacks the endpoint {promised.name!r} "
                f"of {declared.name}"
            )
        if wanted := misfit(request_model(promised.function), request_model(spec.function)):
            raise ConfigError(
                f"{_place(spec)}{target.name}.{spec.attribute} cannot stand for {declared.name}.{promised.attribute}, "
                f"which {caller.name}.{name} needs: it takes {wanted}"
            )


def not_servable(interface: Service[object], services: list[Service[object]]) -> str:
    """Say who of these services needs an interface to which nothing is linked, and how to link it."""
    subject = f"Service {interface.name} is not servable: it is an interface"
    for caller in services:
        for name, target in caller.edges().items():
            if target is interface:
                links = [f"{caller.name}.link({choice})" for choice in _implementations(interface.inner) or ["..."]]
                return f"{subject} that {caller.name}.{name} needs; link a concrete service: {' or '.join(links)}"
    return f"{subject}; serve a service that implements it"


def _place(spec: EndpointSpec) -> str:
    function = plain_function(spec.function)
    return "" if function is None else f"{place(function.__code__.co_filename, function.__code__.co_firstlineno)}: "


def _implementations(interface: type) -> list[str]:
    """The names of the services that implement an interface."""
    names: set[str] = set()
    derived: list[type] = interface.__subclasses__()
    for cls in derived:
        below: list[type] = cls.__subclasses__()
        derived += [other for other in below if other not in derived]
        try:
            service: Service[object] = service_of(cls)
        except TypeError:
            continue
        if not service.is_interface:
            names.add(service.name)
    return sorted(names)
