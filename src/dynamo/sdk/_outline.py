"""What the parent of a graph's workers must know of the graph, which it does not import itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dynamo.sdk._constructor import parameter_names

if TYPE_CHECKING:
    from dynamo.sdk._service import Service


class ServiceOutline(msgspec.Struct, frozen=True):
    """What the parent must know of one service to run it."""

    name: str
    workers: int
    envs: dict[str, str]
    has_http: bool
    #: Of the constructor, as far as a configuration fills them.
    parameters: list[str]


class Outline(msgspec.Struct, tag="outline", frozen=True):
    """What the parent must know of a graph to run it."""

    #: Everything that runs, the entry first.
    services: list[ServiceOutline]
    #: Names of services; each group depends only on groups before it.
    callees_first: list[list[str]]
    #: The services that run and those that could: a configuration may have a section for each.
    known: list[str]


def outline_of(service: Service[object]) -> ServiceOutline:
    """Return the outline of one service."""
    options = service.options
    parameters = parameter_names(service.inner)
    return ServiceOutline(service.name, options.workers, options.envs, service.has_http, parameters)
