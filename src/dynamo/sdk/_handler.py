"""From a request on the wire to a call of a service's method, and what its caller makes of the answer.

The annotation of the first parameter says what the method wants, and that of its result what it answers.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import cast

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo.sdk._annotations import answer_type, request_type
from dynamo.sdk._call import Call
from dynamo.sdk._endpoints import EndpointSpec
from dynamo.sdk._payload import Misfit, Reader, reader_of

Handler = Callable[[object, Context], object]

#: The names by which an optional second parameter is the context of the request.
CONTEXT_NAMES = ("context", "ctx")


def bind_handler(instance: object, spec: EndpointSpec) -> Handler:
    """Return the endpoint of `instance` as the runtime serves it."""
    method: Callable[..., object] = getattr(instance, spec.attribute)
    arguments = argument_reader(spec)
    if inspect.isasyncgenfunction(spec.function):

        async def stream(request: object, context: Context) -> AsyncIterator[object]:
            items = cast("AsyncGenerator[object, None]", method(*arguments(request, context)))
            async with aclosing(items):
                async for item in items:
                    yield item

        return stream
    if inspect.iscoroutinefunction(spec.function):

        async def unary(request: object, context: Context) -> object:
            return _answer(await cast("Awaitable[object]", method(*arguments(request, context))))

        return unary

    # A plain function, or a generator: the runtime runs it beside the loop, in a thread that is used again.
    def plain(request: object, context: Context) -> object:
        return _answer(method(*arguments(request, context)))

    return plain


def _answer(result: object) -> object:
    """What a method returned; a call of another service is answered with everything that it answers."""
    return _all_of(result) if isinstance(result, Call) else result


async def _all_of(call: Call) -> AsyncIterator[object]:
    async with call:
        async for item in call:
            yield item


def argument_reader(spec: EndpointSpec) -> Callable[[object, Context], tuple[object, ...]]:
    """Return how a request becomes the arguments of an endpoint. Raises TypeError if it cannot."""
    name = _name_of(spec.function)
    answer_reader(spec)  # raises if its callers could not read the answer
    takes = f"{name} cannot serve an endpoint: it must take"
    parameters = list(inspect.signature(spec.function).parameters.values())
    if not parameters:
        raise TypeError(f"{takes} (self, request)")
    parameters = parameters[1:]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in required):
        raise TypeError(f"{name} cannot serve an endpoint: its parameters must be positional")
    positional = positional_of(parameters)
    if not positional:
        return lambda request, context: ()
    if sum(parameter.kind is not parameter.VAR_KEYWORD for parameter in required) > 2:
        raise TypeError(f"{takes} (self, request) or (self, request, context)")
    read = _request_reader(spec, positional[0])
    if takes_context(positional):
        return lambda request, context: (read(request), context)
    return lambda request, context: (read(request),)


def positional_of(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    """Return the parameters that a request and its context can be given for."""
    return [one for one in parameters if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]


def takes_context(positional: Sequence[inspect.Parameter]) -> bool:
    """Whether the second of these parameters of a handler is the context: it needs one, or is named so."""
    if len(positional) < 2 or positional[1].kind is inspect.Parameter.VAR_POSITIONAL:
        return False
    return positional[1].default is inspect.Parameter.empty or positional[1].name in CONTEXT_NAMES


def answer_reader(spec: EndpointSpec) -> Reader | None:
    """Return how an item of an answer becomes what the annotation of the endpoint says; None if it says nothing.

    An endpoint without the annotation answers as the method of the interface or base class that it overrides.
    Raises TypeError if the type is unknown at run time, or no answer could be one.
    """
    for function in (spec.function, *spec.overridden):
        if inspect.signature(function).return_annotation is not inspect.Signature.empty:
            wanted = answer_type(function)
            return _reader_of(wanted, f"{_name_of(function)}: the type that it returns")
    return None


def _request_reader(spec: EndpointSpec, parameter: inspect.Parameter) -> Reader:
    wanted = request_type(spec.function, parameter)
    read = _reader_of(wanted, f"{_name_of(spec.function)}: the type of {parameter.name!r}")
    if read is None:
        return lambda request: request

    def read_request(request: object) -> object:
        try:
            return read(request)
        except Misfit as error:
            raise InvalidArgument(f"Invalid request: {error}") from None

    return read_request


def _reader_of(wanted: object, which: str) -> Reader | None:
    try:
        return reader_of(wanted)
    except TypeError as error:
        raise TypeError(f"{which} will not do: {error}") from error


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
