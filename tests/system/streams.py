"""A client that reads an answer with a stop watch, and believes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx
import msgspec

DEADLINE_S = 90.0
MODEL = "oracle"
_DONE = "[DONE]"

OnChunk = Callable[["Answer"], Awaitable[None] | None]


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Failure(msgspec.Struct):
    message: str
    code: str | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    id: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Failure | None = None


@dataclass
class Answer:
    """All that a client has seen of one answer."""

    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    pieces: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    finish_reasons: list[str] = field(default_factory=list)
    usages: list[_Usage] = field(default_factory=list)
    error: _Failure | None = None
    #: Whether `[DONE]` came, which says that the answer is complete.
    done: bool = False
    started_at: float = 0.0
    #: When each piece of text came, on the clock of the loop.
    times: list[float] = field(default_factory=list)
    ended_at: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def longest_pause_s(self) -> float:
        """The longest time in which no text came, that before the first piece included."""
        moments = [self.started_at, *self.times]
        return max((later - earlier for earlier, later in zip(moments, self.times, strict=False)), default=0.0)

    @property
    def took_s(self) -> float:
        return self.ended_at - self.started_at


def client_of(url: str, *, timeout_s: float = DEADLINE_S) -> httpx.AsyncClient:
    """A client with as many connections as a test wants, that trusts no proxy of the environment."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    return httpx.AsyncClient(base_url=url, timeout=timeout_s, limits=limits, trust_env=False)


def chat_body(prompt: str, max_tokens: int, **options: object) -> dict[str, object]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }


async def ask(
    client: httpx.AsyncClient,
    prompt: str,
    max_tokens: int,
    *,
    on_chunk: OnChunk | None = None,
    within_s: float = DEADLINE_S,
    **options: object,
) -> Answer:
    """Stream a chat completion to its end, whatever the end is; `on_chunk` sees each state of the answer."""
    answer = Answer()
    body = chat_body(prompt, max_tokens, **options)
    loop = asyncio.get_running_loop()
    answer.started_at = loop.time()
    async with asyncio.timeout(within_s), client.stream("POST", "/v1/chat/completions", json=body) as response:
        answer.status, answer.headers = response.status_code, response.headers
        if response.status_code != 200:
            answer.error = msgspec.json.decode(await response.aread(), type=_Chunk).error
        else:
            async with aclosing(_events(response)) as events:
                async for event in events:
                    _take(answer, event, loop.time())
                    if on_chunk is not None and (waiting := on_chunk(answer)) is not None:
                        await waiting
    answer.ended_at = loop.time()
    return answer


async def _events(response: httpx.Response) -> AsyncGenerator[str, None]:
    async for line in response.aiter_lines():
        if line:
            assert line.startswith("data: "), f"not an event: {line!r}"
            yield line.removeprefix("data: ")


def _take(answer: Answer, event: str, now: float) -> None:
    assert not answer.done, f"after [DONE] came {event!r}"
    assert answer.error is None, f"after an error came {event!r}"
    if event == _DONE:
        answer.done = True
        return
    chunk = msgspec.json.decode(event, type=_Chunk)
    if chunk.error is not None:
        answer.error = chunk.error
        return
    answer.ids.add(chunk.id)
    if chunk.usage is not None:
        answer.usages.append(chunk.usage)
    for choice in chunk.choices:
        if choice.delta.content:
            answer.pieces.append(choice.delta.content)
            answer.times.append(now)
        if choice.finish_reason is not None:
            answer.finish_reasons.append(choice.finish_reason)
