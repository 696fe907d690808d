"""Lifecycle hooks: methods that run after a service is built, before it counts as ready, and before it ends.

Those of the bases run first, in the order of definition; at the end it is the other way round. Whatever a
hook raises is an error like any other: `SystemExit` does not leave without the shutdown hooks.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar, cast, overload

from dynamo._core.errors import DynamoError
from dynamo._core.stability import stable
from dynamo.runtime._blame import blame

_MARK = "__dynamo_hook__"

Method = TypeVar("Method", bound=Callable[..., object])
Hook = Callable[[], Awaitable[object] | object]


class HookKind(StrEnum):
    """When a hook runs."""

    START = "start"
    LIVENESS = "liveness"
    READINESS = "readiness"
    SHUTDOWN = "shutdown"


@overload
def async_on_start(method: Method, /) -> Method: ...
@overload
def async_on_start() -> Callable[[Method], Method]: ...
@stable(since="0.1")
def async_on_start(method: Method | None = None, /) -> Method | Callable[[Method], Method]:
    """Mark a method, sync or async, that runs before the endpoints of the service can be called.

    It may call the services that this one depends on: it waits until they are there. A sync one keeps the
    loop from everything else, answering probes included, as long as it runs.
    """
    return _decorator(HookKind.START, method)


@overload
def async_on_shutdown(method: Method, /) -> Method: ...
@overload
def async_on_shutdown() -> Callable[[Method], Method]: ...
@stable(since="0.1")
def async_on_shutdown(method: Method | None = None, /) -> Method | Callable[[Method], Method]:
    """Mark a method, sync or async, that runs once after the last request of the service, however that ends.

    Once the service is built they all run, also if a startup hook has failed: a hook must cope with what
    was not started. One that fails keeps no other from running.
    """
    return _decorator(HookKind.SHUTDOWN, method)


on_shutdown = async_on_shutdown


@overload
def readiness(method: Method, /) -> Method: ...
@overload
def readiness() -> Callable[[Method], Method]: ...
@stable(since="0.1")
def readiness(method: Method | None = None, /) -> Method | Callable[[Method], Method]:
    """Mark a method, sync or async, that says whether the service is ready: it is when all of them are true.

    They are asked once everything that the service depends on can be called, and again until they are true;
    then `/health` of the system server asks them. There they have 5 seconds, and a sync one runs in a thread.
    """
    return _decorator(HookKind.READINESS, method)


@overload
def liveness(method: Method, /) -> Method: ...
@overload
def liveness() -> Callable[[Method], Method]: ...
@stable(since="0.1")
def liveness(method: Method | None = None, /) -> Method | Callable[[Method], Method]:
    """Mark a method, sync or async, that says whether the service should go on: it should if all of them are true.

    `/live` of the system server asks them, from the end of the startup hooks until the service stops. They
    have 5 seconds, and a sync one runs in a thread.
    """
    return _decorator(HookKind.LIVENESS, method)


def collect_hooks(cls: type, kind: HookKind) -> list[str]:
    """Return the names of the hooks of a class, those of its bases first, in the order of definition."""
    names: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        for name, function in vars(base).items():
            if kind in _kinds_of(function):
                names[name] = None
            elif name in names:
                del names[name]  # overridden without a decorator: no hook any more
    return list(names)


def _kinds_of(function: object) -> frozenset[HookKind]:
    kinds: frozenset[HookKind] = getattr(function, _MARK, frozenset())
    return kinds or getattr(_inside(function), _MARK, kinds)


def _inside(function: object) -> object:
    """The function inside a staticmethod or classmethod, which may stand above our decorator."""
    return getattr(function, "__func__", function)


async def run_hook(instance: object, name: str) -> object:
    """Run one hook to its end and return its result. A sync hook runs on the loop: it owns the process at that time."""
    with contained(f"the hook {name}"):
        result = cast(Hook, getattr(instance, name))()
        return await result if inspect.isawaitable(result) else result


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Make an error of what the user's code raises to end more than itself.

    That is `SystemExit`, `KeyboardInterrupt`, and a `CancelledError` that nobody has asked for.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        raise DynamoError(f"{what} raised {blame(error)}") from error


def _decorator(kind: HookKind, method: Method | None) -> Method | Callable[[Method], Method]:
    def mark(function: Method) -> Method:
        inside = _inside(function)
        if not inspect.isroutine(inside):
            raise TypeError(f"a hook must be a method, got {function!r}")
        if inspect.isgeneratorfunction(inside) or inspect.isasyncgenfunction(inside):
            raise TypeError(f"{inside.__qualname__} cannot be a hook: it yields, so it would never run")
        setattr(function, _MARK, _kinds_of(function) | {kind})  # of several kinds, if it has several decorators
        return function

    return mark if method is None else mark(method)
