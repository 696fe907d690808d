"""The story of one request to a model whose workers take text.

The worker gets the body as it was sent, asked to stream, and yields OpenAI chunks: objects, or texts that are
their JSON. They are passed on as they are; what a simple worker leaves out of a chunk's envelope is filled in.
That every choice was asked for, and ends with exactly one finish reason, is checked here as for any other model
(`_response_check.py`).

What such a worker has generated cannot be given to another one to go on with: a request moves to another
worker as long as nothing of its answer has come, and no longer. One that is lost when every choice has its reason,
and the client all that it asked for, has answered.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import cast

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, HandlerError, ProtocolError, StreamIncomplete
from dynamo.llm._migration import Migration, is_migratable
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest
from dynamo.llm._response_check import ResponseCheck, Violation
from dynamo.llm._routing import NO_HINTS, RoutingHints

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Object = dict[str, Json]

NOT_RESUMED = "the answer had begun, and one by a worker that takes text cannot be resumed by another"

#: Texts of a chunk that name something; all other texts of one choice are pieces to be joined.
_NAMES = {"role", "id", "type", "name", "finish_reason", "stop_reason"}


class TextPipeline:
    """Answers requests for a model whose workers take the OpenAI body.

    A request that is not to be streamed is sent on as one that is, and with `asks_for_usage` also as one that
    asks for the token counts, which the whole answer is to have.
    """

    def __init__(self, migration: Migration, *, asks_for_usage: bool = True) -> None:
        self._migration = migration
        self._asks_for_usage = asks_for_usage

    async def stream(
        self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield the JSON of the chunks that are ready, until the answer is complete."""
        body = request.body() | {"stream": True}
        envelope = _envelope(request, context, "chat.completion.chunk")
        finished = self._finished(request, context)
        async with aclosing(self._chunks(body, finished, context, hints)) as batches:
            async for chunks in batches:
                yield [_encoded(envelope | chunk, finished.check) for chunk in chunks]

    async def complete(self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS) -> bytes:
        """Return the JSON of the whole answer."""
        body = request.body() | {"stream": True}
        if self._asks_for_usage:
            body["stream_options"] = {"include_usage": True}
        whole: list[Object] = []
        finished = self._finished(request, context)
        async with aclosing(self._chunks(body, finished, context, hints)) as batches:
            async for chunks in batches:
                whole.extend(chunks)
        return _encoded(accumulated(whole, _envelope(request, context, "chat.completion")), finished.check)

    def _finished(self, request: OpenAIRequest, context: Context) -> _Finished:
        return _Finished(request, self._migration.check(context))

    async def _chunks(
        self, body: Object, finished: _Finished, context: Context, hints: RoutingHints
    ) -> AsyncGenerator[list[Object], None]:
        """Send, and yield what comes back; send to another worker if one is lost before anything came."""
        has_begun = False
        with self._migration.journey(self._migration.suspect(body), context, hints) as journey:
            while True:
                try:
                    async with await journey.send(body, object) as stream:
                        finished.check.source = stream
                        while items := await stream.batch():
                            has_begun = True
                            journey.note_answer()
                            chunks = [checked for item in items if (checked := finished.take(_chunk(item))) is not None]
                            if chunks:
                                yield chunks
                            if len(chunks) < len(items) and finished.has_all:
                                return  # what it goes on with is nothing that anybody waits for
                        finished.end()
                        return
                except DynamoError as error:
                    finished.check.note_unreadable(error)
                    if finished.has_all and is_migratable(error):
                        return
                    if has_begun and is_migratable(error):
                        raise type(error)(f"{error.message}; {NOT_RESUMED}", **error.details) from error
                    await journey.go_on(error, num_tokens=0)


def _chunk(item: object) -> Object:
    """Return the chunk that a worker sent, as an object or as its JSON."""
    if isinstance(item, str):
        try:
            item = msgspec.json.decode(item)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ProtocolError(f"the worker sent a text that is not the JSON of a chunk: {error}") from error
    if not isinstance(item, dict):
        raise ProtocolError(f"the worker sent {type(item).__name__} where a chunk is expected: {str(item)[:100]!r}")
    return cast("Object", item)


def _encoded(answer: Object, check: ResponseCheck) -> bytes:
    """Return the JSON of what a worker sent, which need not have any: a key of msgpack may be nothing at all."""
    try:
        return msgspec.json.encode(answer)
    except (TypeError, ValueError) as error:
        raise check.broken(Violation.UNREADABLE, f"sent what JSON cannot say: {error}") from error


class _Finished:
    """Which choices have begun, and which have ended."""

    def __init__(self, request: OpenAIRequest, check: ResponseCheck) -> None:
        num_prompts = len(request.prompts) if isinstance(request, CompletionRequest) else 1
        self._num_choices = (request.n or 1) * num_prompts
        self._awaits_usage = request.include_usage
        self._ended: dict[int, bool] = {}
        self.check = check

    @property
    def has_all(self) -> bool:
        """Whether everything has come that was asked for; what a worker sends beyond it is its own."""
        return len(self._ended) == self._num_choices and all(self._ended.values()) and not self._awaits_usage

    def take(self, chunk: Object) -> Object | None:
        """Return what may be passed on of a chunk; None if that is nothing.

        Raises the error that it reports, and `ProtocolError` if it is none that can be passed on.
        """
        if chunk.get("error") is not None:
            raise _reported(chunk["error"])
        if not isinstance(usage := chunk.get("usage"), dict | None):
            raise ProtocolError(f"the worker sent a usage that is no object: {str(usage)[:100]!r}")
        self._awaits_usage = self._awaits_usage and usage is None
        given = choices_of(chunk)
        choices = [choice for choice in given if self._is_wanted(choice)]
        if len(choices) == len(given):
            return chunk
        return chunk | {"choices": cast("list[Json]", choices)} if choices or usage is not None else None

    def _is_wanted(self, choice: Object) -> bool:
        """Whether this is a part of an answer that goes on. Raises `ProtocolError` if it is no part of any."""
        index = choice.get("index", 0)
        if type(index) is not int or not 0 <= index < self._num_choices:
            raise self.check.broken(
                Violation.WRONG_INDEX,
                f"sent a choice with the index {index!r}; there are {self._num_choices}, from 0",
            )
        if self._ended.get(index):
            self.check.tolerate(Violation.AFTER_FINISH, f"sent more of choice {index} after its finish reason")
            return False
        delta = choice.get("delta", {})
        if not isinstance(delta, dict):
            raise ProtocolError(f"the worker sent a delta of choice {index} that is no object")
        if not isinstance(delta.get("content"), str | None) or not isinstance(choice.get("text"), str | None):
            raise ProtocolError(f"the worker sent a piece of choice {index} that is no text")
        reason = choice.get("finish_reason")
        if not isinstance(reason, str | None):
            raise ProtocolError(f"the worker sent a finish reason of choice {index} that is no text: {reason!r}")
        self._ended[index] = reason is not None
        return True

    def end(self) -> None:
        """Raise `StreamIncomplete` unless every choice that was asked for ended with a reason."""
        num_ended = sum(self._ended.values())
        if num_ended < self._num_choices:
            which = f", and has so ended {num_ended} of {self._num_choices} choices" if self._num_choices > 1 else ""
            what = f"ended without a finish reason{which}"
            self.check.note(Violation.NO_FINISH, what)
            raise StreamIncomplete(f"the worker's stream {what}", code=Violation.NO_FINISH.value)


def _reported(error: Json) -> HandlerError:
    """Return the error that a worker sent as a chunk, in the form of the OpenAI API or of its own."""
    message = error.get("message") if isinstance(error, dict) else error
    return HandlerError(str(message), type_name="the worker's error")


def choices_of(chunk: Object) -> list[Object]:
    """Return the choices of a chunk."""
    choices = chunk.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise ProtocolError("the worker sent a chunk whose 'choices' are not a list of objects")
    return cast("list[Object]", choices)


def accumulated(chunks: Iterable[Object], envelope: Object) -> Object:
    """Return the answer that the chunks of a stream add up to."""
    answer = dict(envelope)
    by_index: dict[int, Object] = {}
    for chunk in chunks:
        answer |= {key: value for key, value in chunk.items() if key not in ("choices", "object") and value is not None}
        for choice in choices_of(chunk):
            index = cast(int, choice.get("index", 0))
            _add(by_index.setdefault(index, {"index": index}), choice)
    choices: list[Json] = []
    for _, choice in sorted(by_index.items()):
        if "delta" in choice:
            message: Object = {"role": "assistant", "content": None}
            choice["message"] = message | cast("Object", choice.pop("delta"))
        choices.append(choice)
    return answer | {"choices": choices}


def _add(whole: Object, piece: Object) -> None:
    """Add a piece of an object to what there is of it: texts and lists grow, everything else is the latest."""
    for key, value in piece.items():
        before = whole.get(key)
        if value is None:
            whole.setdefault(key, None)
        elif isinstance(value, dict):
            inner = dict(before) if isinstance(before, dict) else {}
            _add(inner, value)
            whole[key] = inner
        elif isinstance(value, list):
            whole[key] = _grown(before if isinstance(before, list) else [], value)
        elif isinstance(value, str) and isinstance(before, str) and key not in _NAMES:
            whole[key] = before + value
        else:
            whole[key] = value


def _grown(whole: Sequence[Json], pieces: list[Json]) -> list[Json]:
    """Append to a list; a piece that carries the index of an item there adds to that item."""
    items = list(whole)
    for piece in pieces:
        same = next((item for item in items if _same_index(item, piece)), None)
        if isinstance(piece, dict) and isinstance(same, dict):
            _add(same, piece)
        elif isinstance(piece, dict):
            items.append(dict(piece))
        else:
            items.append(piece)
    return items


def _same_index(item: Json, piece: Json) -> bool:
    return (
        isinstance(item, dict) and isinstance(piece, dict) and "index" in piece and item.get("index") == piece["index"]
    )


def _envelope(request: OpenAIRequest, context: Context, chat_object: str) -> Object:
    is_chat = isinstance(request, ChatRequest)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{context.request_id}",
        "object": chat_object if is_chat else "text_completion",
        "created": int(time.time()),
        "model": request.model,
    }
