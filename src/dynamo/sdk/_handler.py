"""From a request on the wire to a call of a service's method.

The annotation of the first parameter says what the method wants. For a pydantic model, JSON text and
objects are both validated; anything else is passed as it came.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import cast, get_type_hints

from pydantic import BaseModel, ValidationError

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo.sdk._context import request_context
from dynamo.sdk._endpoints import EndpointSpec

Handler = Callable[[object, Context], object]

_SHOWN_CHARS_MAX = 200


def bind_handler(instance: object, spec: EndpointSpec) -> Handler:
    """Return the endpoint of `instance` as the runtime serves it."""
    method: Callable[..., object] = getattr(instance, spec.attribute)
    arguments = argument_reader(spec)
    if inspect.isasyncgenfunction(spec.function):

        async def stream(request: object, context: Context) -> AsyncIterator[object]:
            request_context.set(context)
            items = cast("AsyncGenerator[object, None]", method(*arguments(request, context)))
            async with aclosing(items):
                async for item in items:
                    yield item

        return stream
    if inspect.iscoroutinefunction(spec.function):

        async def unary(request: object, context: Context) -> object:
            request_context.set(context)
            return await cast("Awaitable[object]", method(*arguments(request, context)))

        return unary

    # A plain function, or a generator: the runtime runs it beside the loop.
    def plain(request: object, context: Context) -> object:
        return method(*arguments(request, context))

    return plain


def argument_reader(spec: EndpointSpec) -> Callable[[object, Context], tuple[object, ...]]:
    """Return how a request becomes the arguments of an endpoint. Raises TypeError if it cannot."""
    name = spec.function.__qualname__
    parameters = list(inspect.signature(spec.function).parameters.values())
    if not parameters:
        raise TypeError(f"{name} cannot serve an endpoint: it must take (self, request)")
    parameters = parameters[1:]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if any(parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD) for parameter in required):
        raise TypeError(f"{name} cannot serve an endpoint: its parameters must be positional")
    if not parameters:
        return lambda request, context: ()
    if len(required) > 2:
        raise TypeError(f"{name} cannot serve an endpoint: it must take (self, request) or (self, request, context)")
    read = _reader(spec, parameters[0])
    if len(parameters) > 1 and (len(required) == 2 or parameters[1].name == "context"):
        return lambda request, context: (read(request), context)
    return lambda request, context: (read(request),)


def _reader(spec: EndpointSpec, parameter: inspect.Parameter) -> Callable[[object], object]:
    wanted = _resolved(spec, parameter)
    if not (isinstance(wanted, type) and issubclass(wanted, BaseModel)):
        return lambda request: request
    model = wanted

    def read(request: object) -> object:
        try:
            if isinstance(request, str):
                return model.model_validate_json(request)
            if isinstance(request, dict):
                return model.model_validate(request)
        except ValidationError as error:
            raise InvalidArgument(f"Invalid request: {error}") from None
        raise InvalidArgument(f"Invalid request: {str(request)[:_SHOWN_CHARS_MAX]}")

    return read


def _resolved(spec: EndpointSpec, parameter: inspect.Parameter) -> object:
    """The annotation itself, where the source has it as a string or imports annotations from the future."""
    if parameter.annotation is parameter.empty:
        return None
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    names = getattr(inspect.unwrap(spec.function), "__globals__", {})
    try:
        return get_type_hints(holder, globalns=names)[parameter.name]
    except Exception as error:  # whatever the user's expression raises
        raise TypeError(
            f"{spec.function.__qualname__}: the type {parameter.annotation!r} of {parameter.name!r} is unknown at run "
            f"time; define or import it at the top of the module ({error})"
        ) from error
