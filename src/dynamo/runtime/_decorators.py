"""`dynamo_worker` and `dynamo_endpoint`: plain functions become workers and handlers."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeVar, overload

from typing_extensions import deprecated

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable
from dynamo.runtime._arguments import check_callable, check_type, wrong_type
from dynamo.runtime._process import settle
from dynamo.runtime._runtime import DistributedRuntime
from dynamo.runtime._signals import ending_on_signals

if TYPE_CHECKING:
    from pydantic import BaseModel

P = ParamSpec("P")
T = TypeVar("T")

_Main = Callable[Concatenate[DistributedRuntime, P], Awaitable[T]]
_Entry = Callable[P, Coroutine[object, object, T]]


@overload
def dynamo_worker(static: _Main[P, T], /) -> _Entry[P, T]: ...
@overload
def dynamo_worker(
    static: Literal[False] = False,
) -> Callable[[_Main[P, T]], _Entry[P, T]]: ...
@overload
@deprecated("leave static and enable_nats out: they have no effect, and go with version 1.0")
def dynamo_worker(
    static: bool = False, *, enable_nats: bool | None = None
) -> Callable[[_Main[P, T]], _Entry[P, T]]: ...
@stable(since="0.1")
def dynamo_worker(
    static: _Main[P, T] | bool = False,
    *,
    enable_nats: bool | None = None,
) -> _Entry[P, T] | Callable[[_Main[P, T]], _Entry[P, T]]:
    """Run an async function with a `DistributedRuntime` as its first argument; with or without parentheses.

    The runtime is as the environment says. On SIGTERM or Ctrl-C it shuts down: what is served drains and
    `serve_endpoint` returns. A function that serves nothing, or does not return in time, is cancelled; a second
    signal exits at once. The function that it returns raises what the one that is decorated raises, and what
    entering a `DistributedRuntime` does. `static` and `enable_nats` are of older code: they have no effect, and
    anything but False and None warns.
    """
    if not isinstance(static, bool):
        check_callable("static", static, "the async function to decorate, or nothing")
        return _run_with_runtime(static)
    check_type("enable_nats", enable_nats, (bool, type(None)), "nothing: it has no effect")
    if static or enable_nats is not None:
        warnings.warn(
            "leave static and enable_nats out: every endpoint is discovered, NATS is used where a URL names it, and "
            "both go with version 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
    return _run_with_runtime


def _run_with_runtime(
    function: _Main[P, T],
) -> _Entry[P, T]:
    check_callable("function", function, "an async function whose first parameter is the runtime")

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        runtime = DistributedRuntime()
        # Around the runtime, so that a signal is heard while it joins, and a second one while it leaves.
        with ending_on_signals(runtime):
            async with runtime:
                settle()
                return await function(runtime, *args, **kwargs)

    return run


Model = TypeVar("Model", bound="BaseModel")


@stable(since="0.1")
def dynamo_endpoint(
    request_model: type[BaseModel], response_model: type[BaseModel]
) -> Callable[[Callable[..., AsyncIterator[object]]], Callable[..., AsyncIterator[object]]]:
    """Validate the request of an async generator before it runs.

    A str is parsed as JSON text, a dict is validated, an instance of the model passes as it is; anything
    else raises `InvalidArgument`. The request is the last positional argument, before the context if there is
    one, so methods work too. A response that is a dict or a model is validated against `response_model`; a
    str passes as it is. Both are classes of pydantic models; anything else is a TypeError, at once.
    """
    for parameter, model in (("request_model", request_model), ("response_model", response_model)):
        if not isinstance(model, type) or not hasattr(model, "model_validate"):
            raise wrong_type(parameter, model, "a class of pydantic models")

    def decorate(function: Callable[..., AsyncIterator[object]]) -> Callable[..., AsyncIterator[object]]:
        check_callable("function", function, "an async generator function of (request) or (request, context)")

        @functools.wraps(function)
        async def run(*args: object, **kwargs: object) -> AsyncIterator[object]:
            arguments = list(args)
            position = -2 if isinstance(args[-1], Context) else -1
            arguments[position] = _validated(request_model, arguments[position])
            items = function(*arguments, **kwargs)
            try:
                async for item in items:
                    yield item if isinstance(item, str) else response_model.model_validate(item)
            finally:
                if isinstance(items, AsyncGenerator):
                    await items.aclose()

        return run

    return decorate


def _validated(model: type[Model], request: object) -> Model:
    try:
        if isinstance(request, str):
            return model.model_validate(json.loads(request))
        if isinstance(request, (dict, model)):
            return model.model_validate(request)
    except (ValueError, RecursionError) as error:  # pydantic's and json's errors are ValueErrors
        raise InvalidArgument(f"Invalid request: {error}") from error
    raise InvalidArgument(f"Invalid request: {request!r:.200}")
