"""Turning generated token ids into text, piece by piece, as exactly as if all were decoded at once.

Nearly every model of today has a byte-level tokenizer: each token is a run of bytes, whatever stands around
it, so a table from id to bytes and an incremental UTF-8 decoder are exact and the fastest there is.
Tokenizers of other kinds (SentencePiece) decode a token by its neighbours. For these the tokenizers library's
`DecodeStream` is used, started on the end of the prompt, so that the first word keeps its leading space.

A `DecodeStream` waits without bound for a character to become whole, and raises when bytes already decoded
turn out to have been the start of something invalid. Both happen only when a model writes broken UTF-8; then
what waits is given up as U+FFFD, and the stream starts anew.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dynamo._core.errors import ProtocolError
from dynamo.llm._limits import CONTEXT_TOKENS_MAX, HELD_TOKENS_MAX

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
_TOKEN_ID_END = 2**32


class TokenText(Protocol):
    """Decodes one stream of token ids."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the text that these tokens complete; bytes of an unfinished character are held back."""

    def finish(self) -> str:
        """Return what was held back, with U+FFFD for what never became a character."""


class TokenBytes(dict[int, bytes]):
    """The bytes of each token of a byte-level tokenizer, looked up on first use and shared by all streams."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values() if skip_special_tokens else ()
        self._skipped = {token.content for token in added if token.special}

    def __missing__(self, token_id: int) -> bytes:
        check_token_id(token_id)
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""  # not stored: ids that do not exist must not fill the memory
        data = b"" if token in self._skipped else bytes_of_token(token)
        self[token_id] = data
        return data


class ByteLevelText:
    """Decodes tokens that are runs of bytes."""

    __slots__ = ("_bytes_of", "_rest")

    def __init__(self, bytes_of: TokenBytes) -> None:
        self._bytes_of = bytes_of
        self._rest = b""  # the start of a character whose end has not come

    def push(self, token_ids: Sequence[int]) -> str:
        data = self._bytes_of[token_ids[0]] if len(token_ids) == 1 else b"".join([self._bytes_of[i] for i in token_ids])
        if self._rest:
            data = self._rest + data
        text, used = utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        return text

    def finish(self) -> str:
        rest, self._rest = self._rest, b""
        return rest.decode("utf-8", "replace")


class StreamText:
    """Decodes tokens whose text depends on their neighbours."""

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        # The tokens whose text is known and out, as far as they matter to the next, and those that wait.
        self._context = self._end_of(prompt_token_ids)
        self._held: list[int] = []
        self._start()

    def push(self, token_ids: Sequence[int]) -> str:
        pieces = []
        for token_id in token_ids:
            try:
                text = self._stream.step(self._tokenizer, token_id)
            except Exception:  # what the library raises has no class of its own
                check_token_id(token_id)
                self._held.append(token_id)
                pieces.append(self._give_up())
                continue
            self._held.append(token_id)
            if text is not None:
                pieces.append(text)
                self._context, self._held = self._held, []
            elif len(self._held) >= HELD_TOKENS_MAX:
                pieces.append(self._give_up())
        return "".join(pieces)

    def finish(self) -> str:
        return self._give_up() if self._held else ""

    def _start(self) -> None:
        from tokenizers.decoders import DecodeStream

        self._stream = DecodeStream(ids=self._context, skip_special_tokens=self._skip)

    def _give_up(self) -> str:
        """Return the text of the tokens that wait, as it is, and start anew after them."""
        before = self._decode(self._context)
        text = self._decode(self._context + self._held)
        # Decoded together, broken bytes may spoil characters that are out already; then they are decoded alone.
        text = text[len(before) :] if text.startswith(before) else self._decode(self._held)
        self._context, self._held = self._end_of(self._context + self._held) or self._context, []
        self._start()
        return text

    def _end_of(self, token_ids: Sequence[int]) -> list[int]:
        """The last of these tokens, as many as it takes to see text; none if it ends within a character."""
        size = 4
        while True:
            end = list(token_ids[-size:])
            text = self._decode(end)
            if text and not text.endswith(REPLACEMENT):
                return end
            if size >= min(len(token_ids), CONTEXT_TOKENS_MAX):
                return [] if text else end
            size *= 2

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip)


def check_token_id(token_id: int) -> None:
    """Raise `ProtocolError` for what no tokenizer has: the worker that sent it is at fault."""
    if not 0 <= token_id < _TOKEN_ID_END:
        raise ProtocolError(f"the worker sent {token_id}, which is no token id", token_id=token_id)


def bytes_of_token(token: str) -> bytes:
    """Return the bytes that a token of a byte-level vocabulary stands for.

    Added tokens are written as they are; one that has a character outside of the alphabet is plain text.
    """
    try:
        return bytes([_BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """The alphabet of GPT-2: visible Latin-1 characters stand for themselves, the other bytes for U+0100 and on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF_CHAR = _byte_alphabet()
