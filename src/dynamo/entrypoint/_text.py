"""Text: a chat on the terminal, or one prompt that is piped in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from pydantic import JsonValue

from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo._core.exit_status import OK
from dynamo.entrypoint._answering import Answering
from dynamo.entrypoint._ask_options import AskOptions
from dynamo.entrypoint._asking import Piece, asking
from dynamo.entrypoint._terminal import Terminal, in_thread, is_terminal, read_stdin
from dynamo.llm._limits import PROMPT_CHARS_MAX
from dynamo.llm._openai import ChatRequest

PROMPT = "> "
CLEAR = "/clear"
CUT = "(the answer ends here because it may have no more tokens)"
STDIN_BYTES_MAX = 4 * PROMPT_CHARS_MAX
#: Asks with a conversation.
Ask = Callable[[list[JsonValue]], AsyncGenerator[Piece, None]]


async def run_text(answering: Answering, options: AskOptions) -> int:
    """Chat if this is a terminal; otherwise answer what is piped in."""
    terminal = Terminal()
    is_chat = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    # Before the model is loaded: what is not to be had there is known at once.
    prompt = "" if is_chat else await _piped_prompt()
    if is_chat and answering.is_here:
        terminal.note(f"loading {answering.model_name} ...")
    async with asking(answering, options.request_timeout_s) as asker:

        def ask(messages: list[JsonValue]) -> AsyncGenerator[Piece, None]:
            return asker.ask(ChatRequest, body_of(messages, options))

        if not is_chat:
            await asker.while_it_answers(_answer(ask, [_said_by("user", prompt)], terminal, []))
            return OK
        terminal.note(f"chatting with {asker.model}: Ctrl-C stops an answer, Ctrl-D leaves, {CLEAR} forgets it all")
        with terminal.keyboard():
            await asker.while_it_answers(_chat(ask, terminal))
    return OK


def body_of(messages: list[JsonValue], options: AskOptions) -> dict[str, JsonValue]:
    """Return the body of a chat request with the sampling that was asked for."""
    sampling = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    return {"messages": messages, **{name: value for name, value in sampling.items() if value is not None}}


async def _piped_prompt() -> str:
    piped = await in_thread(lambda: read_stdin(STDIN_BYTES_MAX))
    if len(piped) > STDIN_BYTES_MAX:
        raise InvalidArgument(f"the prompt on stdin is longer than {STDIN_BYTES_MAX} bytes: shorten it")
    try:
        prompt = piped.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the prompt on stdin is not UTF-8: byte {error.start} is wrong") from None
    if not prompt.strip():
        raise InvalidArgument("there is no prompt on stdin: pipe one in, or run it in a terminal to chat")
    return prompt


async def _chat(ask: Ask, terminal: Terminal) -> None:
    """Ask and answer until the person leaves. An answer that fails is said so, and forgotten with its question."""
    history: list[JsonValue] = []
    while (line := await terminal.line(PROMPT)) is not None:
        if not line.strip():
            continue
        if line.strip() == CLEAR:
            history.clear()
            continue
        question = _said_by("user", line)
        said: list[str] = []
        try:
            await _answer_or_interrupt(ask, [*history, question], terminal, said)
        except DynamoError as error:
            terminal.show("\n" if said else "")
            terminal.note(f"error: {error}")
            continue
        if said:
            history += [question, _said_by("assistant", "".join(said))]
    terminal.show("\n")


async def _answer_or_interrupt(ask: Ask, messages: list[JsonValue], terminal: Terminal, said: list[str]) -> None:
    """Show an answer, until it is complete or Ctrl-C stops it. What was shown until then counts as said."""
    answering = asyncio.ensure_future(_answer(ask, messages, terminal, said))
    try:
        with terminal.interrupting(answering.cancel):
            await asyncio.wait([answering])
        if answering.cancelled():
            terminal.show("\n")
        else:
            answering.result()
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


async def _answer(ask: Ask, messages: list[JsonValue], terminal: Terminal, said: list[str]) -> None:
    """Show an answer, and put it into `said`, piece by piece."""
    is_cut = False
    async with aclosing(ask(messages)) as pieces:
        async for piece in pieces:
            if piece.text:
                said.append(piece.text)
                terminal.show(piece.text)
            if piece.finish_reason == "length":
                is_cut = True
    terminal.show("\n")
    if is_cut:
        terminal.note(CUT)


def _said_by(role: str, text: str) -> JsonValue:
    return {"role": role, "content": text}
