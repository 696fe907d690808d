"""The load generator of the http benchmark: a process of its own, on bare sockets.

It must never be what limits: a connection counts the bytes of its response while they come and looks at
them once they are complete. The first response of each connection is parsed as a client would do it, and
its text compared; the others must have the same number of events, tokens and finish reasons, or are
parsed, too.

The socket has TCP_NODELAY, and TCP_QUICKACK after every read: a server that leaves Nagle's algorithm on
would otherwise be measured against the kernel's 40 ms delayed acknowledgements and not against its work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import time
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.chat_request import TOKENS, chat_request, words
from benchmarks.figures import percentile
from benchmarks.machine import cpu_s

_WARM_UP_S = 0.5
_READY_S = 60.0
_RETRY_S = 0.02
_OK = b"HTTP/1.1 200 "
_RESPONSE_END = b"0\r\n\r\n"
_FIRST_TEXT = re.compile(rb'"content":"[^"]')


class Load:
    """What all connections share: the request, what must come back, until when, and the figures."""

    def __init__(self, port: int, text: str | None) -> None:
        self.port = port
        self.request = chat_request(f"127.0.0.1:{port}")
        #: The text that every response must have; None if the engine makes its text up.
        self.text = text
        self.end = 0.0
        self.first_tokens_s: list[float] = []
        self.responses_s: list[float] = []


class Connection(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered, until the time is up."""

    def __init__(self, load: Load, sock: socket.socket) -> None:
        self._load = load
        self._socket = sock
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._known: tuple[int, ...] | None = None
        self._ask_began = 0.0
        self._parts: list[bytes] = []
        self._tail = b""
        self._has_text = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._parts.append(data)
        if not self._has_text and not self._look_for_text():
            return
        self._tail = data[-5:] if len(data) >= 5 else (self._tail + data)[-5:]
        if self._tail == _RESPONSE_END:
            self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            got = b"".join(self._parts)[-500:]
            self.done.set_exception(RuntimeError(f"the server closed the connection in a response: {got!r}"))

    def _look_for_text(self) -> bool:
        """Note the first token's time when it comes. Returns False if the response is a refusal."""
        response = b"".join(self._parts)
        if len(response) > len(_OK) and not response.startswith(_OK):
            self._finish(RuntimeError(f"the server answered: {response[:1000]!r}"))
            return False
        if _FIRST_TEXT.search(response):
            self._has_text = True
            self._load.first_tokens_s.append(time.perf_counter() - self._ask_began)
        return True

    def _ask(self) -> None:
        self._parts, self._tail, self._has_text = [], b"", False
        self._ask_began = time.perf_counter()
        self._transport.write(self._load.request)

    def _answered(self) -> None:
        now = time.perf_counter()
        self._load.responses_s.append(now - self._ask_began)
        try:
            self._check(b"".join(self._parts))
        except RuntimeError as error:
            self._finish(error)
            return
        if now < self._load.end:
            self._ask()
        else:
            self._finish(None)

    def _check(self, response: bytes) -> None:
        counts = (response.count(b"\ndata: "), response.count(b'"finish_reason":"'), response.count(b'"content":"'))
        if counts != self._known or b'"completion_tokens":%d' % TOKENS not in response:
            check_response(response, self._load.text)
            self._known = counts

    def _finish(self, error: RuntimeError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        self._transport.close()


def check_response(response: bytes, text: str | None) -> None:
    """Raise unless a chunked response is a complete stream of `TOKENS` tokens, with this text if one is given."""
    _, _, body = response.partition(b"\r\n\r\n")
    events = [event.removeprefix("data: ") for event in dechunked(body).decode().split("\n\n") if event]
    if events.pop() != "[DONE]":
        raise RuntimeError(f"a stream ended without [DONE]: {response[-1000:]!r}")
    chunks = [json.loads(event) for event in events]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    usages = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]
    got = "".join(choice["delta"].get("content") or "" for choice in choices)
    if reasons != ["length"] or usages[-1:] != [TOKENS] or text not in (None, got):
        raise RuntimeError(f"finish reasons {reasons}, {usages} tokens, text {got!r}, where {text!r} was expected")


def dechunked(body: bytes) -> bytes:
    """Return the payload of a body in HTTP's chunked coding."""
    payload: list[bytes] = []
    at = 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end], 16)
        if size == 0:
            return b"".join(payload)
        payload.append(body[line_end + 2 : line_end + 2 + size])
        at = line_end + 2 + size + 2


async def run(load: Load, concurrency: int, window_s: float) -> None:
    """Keep `concurrency` requests open until the window is over; return when all are answered."""
    load.first_tokens_s.clear()
    load.responses_s.clear()
    load.end = time.perf_counter() + window_s
    await asyncio.gather(*(_converse(load) for _ in range(concurrency)))


async def _converse(load: Load) -> None:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await loop.sock_connect(sock, ("127.0.0.1", load.port))
    _, connection = await loop.create_connection(lambda: Connection(load, sock), sock=sock)
    await connection.done


async def wait_until_served(load: Load) -> None:
    """Return after the first right answer; until then the server may refuse."""
    end = time.perf_counter() + _READY_S
    while True:
        try:
            return await run(load, 1, 0.0)
        except (OSError, RuntimeError):
            if time.perf_counter() > end:
                raise
            await asyncio.sleep(_RETRY_S)


async def main(options: argparse.Namespace) -> None:
    load = Load(options.port, "".join(words(options.model)) if options.known_text else None)
    await wait_until_served(load)
    # The monotonic clock is the same for all processes of a machine.
    ready_at_s = time.monotonic()
    cells = [await measure(load, concurrency, options) for concurrency in options.concurrency]
    options.report.write_text(json.dumps({"ready_at_s": ready_at_s, "cells": cells}))


async def measure(load: Load, concurrency: int, options: argparse.Namespace) -> dict[str, float]:
    """Warm up, run one window, and return its figures."""
    await run(load, concurrency, _WARM_UP_S)
    before_s = cpu_s(options.frontend_pid), cpu_s(options.worker_pid), time.process_time()
    began = time.perf_counter()
    await run(load, concurrency, options.window_s)
    elapsed_s = time.perf_counter() - began
    after_s = cpu_s(options.frontend_pid), cpu_s(options.worker_pid), time.process_time()
    frontend_s, worker_s, load_s = (after - before for after, before in zip(after_s, before_s, strict=True))
    tokens = len(load.responses_s) * TOKENS
    return {
        "requests_per_s": len(load.responses_s) / elapsed_s,
        "tokens_per_s": tokens / elapsed_s,
        "ttft_p50_ms": percentile(load.first_tokens_s, 50) * 1e3,
        "ttft_p99_ms": percentile(load.first_tokens_s, 99) * 1e3,
        "request_p50_ms": percentile(load.responses_s, 50) * 1e3,
        "request_p99_ms": percentile(load.responses_s, 99) * 1e3,
        "frontend_us_per_token": frontend_s / tokens * 1e6,
        "worker_us_per_token": worker_s / tokens * 1e6,
        "frontend_cores": frontend_s / elapsed_s,
        "worker_cores": worker_s / elapsed_s,
        "load_cores": load_s / elapsed_s,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--known-text", action="store_true")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[])
    parser.add_argument("--window-s", type=float, default=1.0)
    parser.add_argument("--frontend-pid", type=int, required=True)
    parser.add_argument("--worker-pid", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True)
    uvloop.install()
    asyncio.run(main(parser.parse_args()))
