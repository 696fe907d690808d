"""What the parent of a graph's workers must know of the graph, which it does not import itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dynamo.sdk._constructor import Constructor, constructor_of

if TYPE_CHECKING:
    from dynamo.sdk._service import Service


class ServiceOutline(msgspec.Struct, frozen=True):
    """What the parent must know of one service to run it."""

    name: str
    workers: int
    envs: dict[str, str]
    has_http: bool
    #: GPUs of each worker, or the share of one.
    gpu: float = 0.0
    namespace: str = ""
    #: What the decorator and the configuration have said, by the keys of `ServiceArgs`.
    options: dict[str, object] = {}
    constructor: Constructor = Constructor()


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
    return ServiceOutline(
        service.name,
        options.workers,
        options.envs,
        service.has_http,
        options.resources.gpu or 0.0,
        options.dynamo.namespace,
        options.model_dump(mode="json", exclude_unset=True),
        constructor_of(service.inner),
    )
