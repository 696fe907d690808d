"""Asking: which model, and what it says, piece by piece. Through the same pipeline as a request over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import msgspec
from pydantic import JsonValue

from dynamo._core.address import MODEL_CARDS, parse_key
from dynamo._core.context import Context
from dynamo._core.errors import NoInstances, NotFound, ProtocolError, WrongUsage
from dynamo.entrypoint._answering import Answering, Ended, until_ended
from dynamo.llm._messages import CompletionUsage
from dynamo.llm._model_card import ModelCard
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import OpenAIRequest, parse
from dynamo.runtime import DistributedRuntime

#: How often it is looked whether a model has come.
POLL_S = 0.02
NAMED_MAX = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk adds to an answer. The last but one has the reason, and the last the usage."""

    text: str = ""
    finish_reason: str | None = None
    usage: CompletionUsage | None = None


class Asker:
    """Asks one model."""

    def __init__(self, models: ModelManager, model: str, ended: Ended, request_timeout_s: float) -> None:
        self._models = models
        self._ended = ended
        self._request_timeout_s = request_timeout_s
        self.model = model

    async def ask(self, kind: type[OpenAIRequest], body: dict[str, JsonValue]) -> AsyncGenerator[Piece, None]:
        """Yield the answer to a request as it comes, and at its end what it has cost.

        Closing the generator frees the engine. Raises what the pipeline raises: every error is a `DynamoError`.
        """
        streamed = {"model": self.model} | body | {"stream": True, "stream_options": {"include_usage": True}}
        request = parse(kind, streamed)
        context = Context(deadline=asyncio.get_running_loop().time() + self._request_timeout_s)
        pipeline = self._models.pipeline(request.model, request)
        async with aclosing(pipeline.stream(request, context)) as batches:
            async for chunks in batches:
                for chunk in chunks:
                    yield _piece(chunk)

    async def while_it_answers(self, work: Coroutine[object, object, None]) -> None:
        """Do work that asks. If who answers ends before it is done, stop it, and raise why."""
        await until_ended(self._ended, work)


@asynccontextmanager
async def asking(answering: Answering, request_timeout_s: float) -> AsyncIterator[Asker]:
    """See to it that a model is served, and ask it.

    Raises `WrongUsage` if there are several and none is named, `NoInstances` if none comes in time, and what
    the pipeline raises for one that cannot be served.
    """
    async with (
        answering.runtime() as runtime,
        ModelManager(runtime, namespace=answering.namespace) as models,
        answering.serving(runtime) as ended,
    ):
        model = await _model_to_ask(runtime, models, answering)
        yield Asker(models, model, ended, request_timeout_s)


async def _model_to_ask(runtime: DistributedRuntime, models: ModelManager, answering: Answering) -> str:
    """Return the model to ask, once it can be."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + answering.ready_timeout_s
    while True:
        name = answering.model_name or await _only_model(runtime, answering.namespace)
        if name is not None and _can_be_asked(models, name):
            return name
        if loop.time() >= deadline:
            what = "no model could be asked" if name is None else f"the model {name!r} could not be asked"
            raise NoInstances(
                f"{what} within {answering.ready_timeout_s:g} s: "
                f"{await _known(runtime, answering.namespace)}. Start a worker, for example with "
                "`dynamo run in=dyn://NAMESPACE out=transformers MODEL`, in the same discovery"
            )
        await asyncio.sleep(POLL_S)


def _can_be_asked(models: ModelManager, name: str) -> bool:
    try:
        models.pipeline(name)
    except (NotFound, NoInstances):
        return False
    return True


async def _only_model(runtime: DistributedRuntime, namespace: str | None) -> str | None:
    names = await _model_names(runtime, namespace)
    if len(names) > 1:
        shown = ", ".join(names[:NAMED_MAX]) + (", ..." if len(names) > NAMED_MAX else "")
        raise WrongUsage(f"there are {len(names)} models, {shown}: say in model_name (--model-name) which one to ask")
    return names[0] if names else None


async def _known(runtime: DistributedRuntime, namespace: str | None) -> str:
    names = await _model_names(runtime, namespace)
    return f"workers serve {', '.join(names[:NAMED_MAX])}" if names else "no worker has registered one"


async def _model_names(runtime: DistributedRuntime, namespace: str | None) -> list[str]:
    """The models that workers have registered, whether they can be asked already or not."""
    cards = await runtime.discovery.get_prefix(MODEL_CARDS)
    return sorted(
        {
            ModelCard.from_json(card).display_name
            for key, card in cards.items()
            if namespace is None or parse_key(key)[0].namespace == namespace
        }
    )


# An OpenAI chunk, as far as it matters here.


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: CompletionUsage | None = None


_chunk = msgspec.json.Decoder(_Chunk)


def _piece(chunk: bytes) -> Piece:
    try:
        read = _chunk.decode(chunk)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"the worker sent what is no OpenAI chunk: {error}") from error
    if not read.choices:
        return Piece(usage=read.usage)
    choice = read.choices[0]
    text = choice.delta.content if choice.delta is not None else choice.text
    return Piece(text or "", choice.finish_reason, read.usage)
