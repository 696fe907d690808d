"""Deltas as OpenAI JSON: chunks of a stream, or the whole answer.

Encoding a chunk is the hottest thing that a frontend does. All of it but the text is the same in every
chunk of a choice, so it is encoded once per request, and per chunk only the text.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol

import msgspec

from dynamo._core.errors import StreamIncomplete
from dynamo.llm._choice import Delta, TokenLogprob
from dynamo.llm._messages import CompletionUsage

_encode = msgspec.json.Encoder().encode
_TEXT = "\x00text"
_TEXT_JSON = _encode(_TEXT)

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


class Chunks(Protocol):
    """Writes the answer to one request."""

    def encode(self, delta: Delta) -> bytes:
        """Return a chunk."""

    def usage(self, usage: CompletionUsage) -> bytes:
        """Return the chunk that ends a stream whose tokens are counted."""

    def whole(self, deltas: Iterable[Delta], usage: CompletionUsage) -> bytes:
        """Return the answer that these deltas add up to."""


class _Chunks(ABC):
    """What chat and completions share: all but the shape of a choice."""

    OBJECT: str
    CHUNK_OBJECT: str

    def __init__(self, id: str, model: str, *, include_usage: bool) -> None:
        self._envelope: dict[str, Json] = {"id": id, "model": model, "created": int(time.time())}
        self._include_usage = include_usage
        # Of each choice that has begun: what stands before the text, and after it, in a plain chunk.
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    def encode(self, delta: Delta) -> bytes:
        frame = self._frames.get(delta.index)
        if frame is None or delta.finish_reason is not None or delta.logprobs is not None:
            return self._encode_whole(delta, is_first=frame is None)
        return frame[0] + _encode(delta.text) + frame[1]

    def usage(self, usage: CompletionUsage) -> bytes:
        return _encode(self._chunk([], _usage(usage)))

    def whole(self, deltas: Iterable[Delta], usage: CompletionUsage) -> bytes:
        by_index: dict[int, list[Delta]] = {}
        for delta in deltas:
            by_index.setdefault(delta.index, []).append(delta)
        choices: list[Json] = [self._choice(joined(by_index[index])) for index in sorted(by_index)]
        return _encode(self._envelope | {"object": self.OBJECT, "choices": choices, "usage": _usage(usage)})

    def _encode_whole(self, delta: Delta, *, is_first: bool) -> bytes:
        if is_first:
            plain = _encode(self._chunk([self._chunk_choice(Delta(delta.index, _TEXT), is_first=False)]))
            before, _, after = plain.partition(_TEXT_JSON)
            self._frames[delta.index] = before, after
        return _encode(self._chunk([self._chunk_choice(delta, is_first=is_first)]))

    def _chunk(self, choices: list[Json], usage: Json = None) -> dict[str, Json]:
        chunk = self._envelope | {"object": self.CHUNK_OBJECT, "choices": choices}
        return chunk | {"usage": usage} if self._include_usage else chunk

    @abstractmethod
    def _chunk_choice(self, delta: Delta, *, is_first: bool) -> Json:
        """The part of a chunk that says what a delta adds."""

    @abstractmethod
    def _choice(self, delta: Delta) -> Json:
        """A whole answer."""


class ChatChunks(_Chunks):
    """Answers of `/v1/chat/completions`."""

    OBJECT = "chat.completion"
    CHUNK_OBJECT = "chat.completion.chunk"

    def _chunk_choice(self, delta: Delta, *, is_first: bool) -> Json:
        content: dict[str, Json] = {"content": delta.text}
        if is_first:
            content = {"role": "assistant", **content}
        return {
            "index": delta.index,
            "delta": content,
            "logprobs": _chat_logprobs(delta.logprobs),
            "finish_reason": delta.finish_reason,
        }

    def _choice(self, delta: Delta) -> Json:
        return {
            "index": delta.index,
            "message": {"role": "assistant", "content": delta.text},
            "logprobs": _chat_logprobs(delta.logprobs),
            "finish_reason": delta.finish_reason,
        }


class CompletionChunks(_Chunks):
    """Answers of `/v1/completions`."""

    OBJECT = "text_completion"
    CHUNK_OBJECT = "text_completion"

    def __init__(self, id: str, model: str, *, include_usage: bool) -> None:
        super().__init__(id, model, include_usage=include_usage)
        self._offsets: dict[int, int] = {}

    def _chunk_choice(self, delta: Delta, *, is_first: bool) -> Json:
        return self._choice(delta)

    def _choice(self, delta: Delta) -> Json:
        return {
            "index": delta.index,
            "text": delta.text,
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
        }

    def _logprobs(self, delta: Delta) -> Json:
        if delta.logprobs is None:
            return None
        offsets: list[Json] = []
        for one in delta.logprobs:
            offset = self._offsets.get(delta.index, 0)
            offsets.append(offset)
            self._offsets[delta.index] = offset + len(one.token)
        return {
            "tokens": [one.token for one in delta.logprobs],
            "token_logprobs": [one.logprob for one in delta.logprobs],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def joined(deltas: list[Delta]) -> Delta:
    """Return the deltas of one choice as one. Raises `StreamIncomplete` unless the last has a reason."""
    last = deltas[-1]
    if last.finish_reason is None:
        raise StreamIncomplete(f"choice {last.index} has no finish reason")
    logprobs = [one for delta in deltas if delta.logprobs is not None for one in delta.logprobs]
    wanted = any(delta.logprobs is not None for delta in deltas)
    return Delta(last.index, "".join(delta.text for delta in deltas), last.finish_reason, logprobs if wanted else None)


def _chat_logprobs(logprobs: list[TokenLogprob] | None) -> Json:
    if logprobs is None:
        return None
    content: list[Json] = [
        {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode()), "top_logprobs": []}
        for one in logprobs
    ]
    return {"content": content}


def _usage(usage: CompletionUsage) -> Json:
    # Written out, because counts of zero count, too.
    counts: dict[str, Json] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.prompt_tokens_details is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.prompt_tokens_details.cached_tokens}
    return counts
