"""An async generator of a user's as an engine: OpenAI requests in, OpenAI chunks out."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo._core.shown import shown
from dynamo._core.stability import beta
from dynamo.runtime._arguments import check_callable, check_type, wrong_type

#: What it yields: a chunk as an object, as the text of its JSON, or as a pydantic model such as those of `openai`.
Chunks = AsyncIterator[object] | Awaitable[AsyncIterator[object]]
#: Takes `(request)` or `(request, context)`.
Generator = Callable[..., Chunks]

_CONTEXT = ("context", "ctx")
_ALLOWED = "an async generator function of (request) or (request, context)"


@beta(since="0.1")
class PythonAsyncEngine:
    """Makes an engine of `generator`, an async generator function, or a function that returns an async iterator.

    It is called with the request, a dict, and if it takes two arguments also with the `Context`, which says
    whether the client is still there. What it yields goes to whoever asked, item by item; when the client leaves,
    the generator is closed. `loop` is the event loop that it needs, by default the one that serves it; another one
    is refused when it is first called. Raises TypeError for a `generator` that cannot be called in this way.
    """

    def __init__(self, generator: Generator, loop: asyncio.AbstractEventLoop | None = None) -> None:
        check_callable("generator", generator, _ALLOWED)
        if loop is not None:
            check_type("loop", loop, asyncio.AbstractEventLoop, "an event loop, or None for the one that serves it")
        self._generator = generator
        self._takes_context = _takes_context(generator)
        self._loop = loop

    def check_loop(self) -> None:
        """Raise `InvalidArgument` if the engine needs another event loop than the one that runs."""
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise InvalidArgument(
                f"loop={self._loop!r} is not the event loop that serves the engine: leave it out", parameter="loop"
            )

    async def generate(self, request: object, context: Context) -> AsyncGenerator[object, None]:
        """Yield what the generator yields. It is a handler that an endpoint can serve."""
        self.check_loop()
        made = self._generator(request, context) if self._takes_context else self._generator(request)
        items = await made if inspect.isawaitable(made) else made
        if not isinstance(items, AsyncIterator):
            raise wrong_type("generator's result", items, "an async iterator of chunks")
        try:
            async for item in items:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()


@beta(since="0.1")
class HttpAsyncEngine(PythonAsyncEngine):
    """A `PythonAsyncEngine` for an `HttpService`: it takes the body of an OpenAI request and yields its chunks.

    The body is that of a stream, and the answer to a client that wants no stream is put together from the chunks.
    Every choice must end with exactly one `finish_reason`. What a chunk leaves out of `id`, `object`, `created` and
    `model` is filled in. `HttpError` is how it refuses a request.
    """


def _takes_context(generator: Generator) -> bool:
    """Whether its second parameter must be given, or is the context by its name. Raises TypeError if more must be."""
    try:
        signature = inspect.signature(generator)
    except ValueError:  # some that are written in C tell nothing of their parameters
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one for one in signature.parameters.values() if one.kind in kinds]
    takes = len(positional) > 1 and (positional[1].default is inspect.Parameter.empty or positional[1].name in _CONTEXT)
    try:
        signature.bind(*("request", "context")[: 1 + takes])
    except TypeError as error:
        raise TypeError(
            f"generator={shown(generator)} of {signature} cannot be called with its request: {error}: give {_ALLOWED}"
        ) from None
    return takes
