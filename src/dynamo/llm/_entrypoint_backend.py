"""An engine behind detokenization, as an endpoint: token ids in, token ids and their text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import ProtocolError, StreamIncomplete
from dynamo._core.stability import beta
from dynamo.llm._detokenize import Detokenizer
from dynamo.llm._entrypoint_engines import PythonAsyncEngine
from dynamo.llm._entrypoint_preprocessor import CARD, ENDPOINT
from dynamo.llm._messages import EngineOutput
from dynamo.llm._model_card import ModelCard
from dynamo.llm._preprocess import Preprocessor
from dynamo.llm._response_check import Violation
from dynamo.llm._worker import read_request
from dynamo.runtime import Endpoint
from dynamo.runtime._arguments import check_type

#: Takes a `PreprocessedRequest`, and perhaps the context, and yields the outputs of an engine, or dicts like them.
TokenGenerator = Callable[..., AsyncIterator[EngineOutput] | AsyncIterator[Mapping[str, object]]]


class BackendOutput(EngineOutput, omit_defaults=True):
    """An engine's output, and the text that it adds to the answer."""

    text: str = ""


@beta(since="0.1")
class Backend:
    """Serves an engine at `endpoint`, with the text of what it generates.

    Stop strings and stop tokens end an answer here, and the engine with it: its generator is closed. The tokenizer
    is the one that the card `mdc` tells of. Raises TypeError for arguments of other types.
    """

    def __init__(self, mdc: ModelCard, endpoint: Endpoint) -> None:
        check_type("mdc", mdc, ModelCard, CARD)
        check_type("endpoint", endpoint, Endpoint, ENDPOINT)
        self._card = mdc
        self._endpoint = endpoint

    async def start(self, generator: TokenGenerator) -> None:
        """Serve until the runtime shuts down.

        `generator` is an async generator function of `(request)` or `(request, context)`: it gets a
        `PreprocessedRequest` and yields `EngineOutput`s, or dicts with their fields. Items here have `text` beside
        the engine's `token_ids`; the last one, and no other, has a `finish_reason`. Callers get `ProtocolError` for
        what is no output of an engine, and `StreamIncomplete` if it ends without a reason. Raises TypeError for a
        `generator` that cannot be called, `ConfigError` or `NotFound` if the model's files cannot be read, and
        `InvalidArgument` if this process serves the endpoint already.
        """
        engine = PythonAsyncEngine(generator)
        preprocessor = await Preprocessor.load(self._card)

        async def answer(request: object, context: Context) -> AsyncGenerator[BackendOutput, None]:
            read = read_request(request)
            detokenizer = Detokenizer.for_request(preprocessor.tokenizer, read)
            async with aclosing(engine.generate(read, context)) as items:
                async for item in items:
                    output = _with_text(item, detokenizer)
                    yield output
                    if output.finish_reason is not None:
                        return
            raise StreamIncomplete(
                "the engine's generator ended without a finish reason", code=Violation.NO_FINISH.value
            )

        try:
            await self._endpoint.serve_endpoint(answer)
        finally:
            preprocessor.close()


def _with_text(item: object, detokenizer: Detokenizer) -> BackendOutput:
    """Read what an engine yielded, and say what it adds to the text."""
    plain = msgspec.structs.asdict(item) if isinstance(item, EngineOutput) else item
    try:
        output = msgspec.convert(plain, BackendOutput)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the generator yielded what is no output of an engine: {error}") from error
    output.text = detokenizer.push(output.token_ids)
    if detokenizer.stopped:
        output.finish_reason = "stop"
    elif output.finish_reason is not None:
        output.text += detokenizer.finish()
    return output
