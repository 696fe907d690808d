"""`dynamo_worker` and `dynamo_endpoint`: plain functions become workers and handlers."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo.runtime._process import settle
from dynamo.runtime._runtime import DistributedRuntime
from dynamo.runtime._signals import ending_on_signals

if TYPE_CHECKING:
    from pydantic import BaseModel

P = ParamSpec("P")
T = TypeVar("T")


def dynamo_worker(
    static: bool = False,
) -> Callable[[Callable[Concatenate[DistributedRuntime, P], Awaitable[T]]], Callable[P, Coroutine[object, object, T]]]:
    """Run an async function with a `DistributedRuntime` as its first argument.

    On SIGTERM or Ctrl-C the runtime shuts down: what is served drains and `serve_endpoint` returns. A
    function that serves nothing, or does not return in time, is cancelled; a second signal exits at once.
    `static` is accepted for older code and changes nothing.
    """

    def decorate(
        function: Callable[Concatenate[DistributedRuntime, P], Awaitable[T]],
    ) -> Callable[P, Coroutine[object, object, T]]:
        @functools.wraps(function)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            runtime = DistributedRuntime()
            # Around the runtime, so that a signal is heard while it joins, and a second one while it leaves.
            with ending_on_signals(runtime):
                async with runtime:
                    settle()
                    return await function(runtime, *args, **kwargs)

        return run

    return decorate


Model = TypeVar("Model", bound="BaseModel")


def dynamo_endpoint(
    request_model: type[BaseModel], response_model: type[BaseModel]
) -> Callable[[Callable[..., AsyncIterator[object]]], Callable[..., AsyncIterator[object]]]:
    """Validate the request of an async generator before it runs.

    A str is parsed as JSON text, a dict is validated, an instance of the model passes as it is; anything
    else raises `InvalidArgument`. The request is the last positional argument, before the context if there is
    one, so methods work too. A response that is a dict or a model is validated against `response_model`; a
    str passes as it is.
    """

    def decorate(function: Callable[..., AsyncIterator[object]]) -> Callable[..., AsyncIterator[object]]:
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
