"""A model's tokenizer: text to token ids, without holding the event loop, and back.

A short prompt is encoded at once: it takes less time than a change of thread. A long one is encoded in one of
the tokenizer's own threads, which the library lets run beside the loop; how many may wait is limited.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dynamo._core.errors import ConfigError, InvalidArgument, Overloaded
from dynamo.llm._limits import (
    COUNTED_CHARS,
    CUT_TOKENS_MAX,
    ENCODE_INLINE_CHARS_MAX,
    TOKENIZER_BYTES_MAX,
    TOKENIZER_QUEUE_MAX,
    TOKENIZER_THREADS,
)
from dynamo.llm._model_card import ModelCard
from dynamo.llm._model_files import TOKENIZER, checksum, read_limited
from dynamo.llm._token_text import ByteLevelText, StreamText, TokenBytes, TokenText

if TYPE_CHECKING:
    import tokenizers

_T = TypeVar("_T")


class Tokenizer:
    """Encodes prompts and decodes generated tokens."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        from tokenizers.decoders import ByteLevel

        # A tokenizer.json may ask to cut or fill up what it encodes; a prompt is never changed silently.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, "dynamo-tokenizer")
        self._places = threading.BoundedSemaphore(TOKENIZER_THREADS + TOKENIZER_QUEUE_MAX)
        self._is_byte_level = isinstance(backend.decoder, ByteLevel)
        self._bytes_shown: dict[bool, TokenBytes] = {}
        added = backend.get_added_tokens_decoder()
        #: Every token id is smaller than this.
        self.vocab_size = max(backend.get_vocab_size(with_added_tokens=True), max(added, default=-1) + 1)
        # Where a text is cut, one token may become so many. Some take all the space beside them: it has no others.
        self._cut_tokens_max = max([CUT_TOKENS_MAX, *(len(one.content.encode()) for one in added.values())])
        self._takes_space = any(one.lstrip or one.rstrip for one in added.values())

    @classmethod
    def for_card(cls, card: ModelCard) -> Tokenizer:
        """Load the tokenizer that a card names; blocks for as long as a large vocabulary takes to read."""
        path = card.tokenizer_path
        try:
            data = read_limited(path, TOKENIZER_BYTES_MAX)
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}, the tokenizer of {card.display_name}: {error.strerror}; "
                "the model directory must have the same path here as at the worker",
                path=str(path),
            ) from error
        if card.checksums.get(TOKENIZER, checksum(data)) != checksum(data):
            raise ConfigError(
                f"{path} is not the tokenizer that the worker of {card.display_name} uses: its checksum differs; "
                "restart the worker if the file was changed",
                path=str(path),
            )
        return cls.from_bytes(data, path)

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> Tokenizer:
        """Read the content of a `tokenizer.json`; `path` is for messages only."""
        import tokenizers

        try:
            return cls(tokenizers.Tokenizer.from_buffer(data))
        except ValueError as error:
            raise ConfigError(f"{path} is not a tokenizer that can be read: {error}", path=str(path)) from error

    def encode_now(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text. A rendered chat template brings its own special tokens."""
        try:
            # A batch of one: the library's `encode` keeps the interpreter locked for as long as it takes.
            [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return encoding.ids
        except TypeError as error:
            raise InvalidArgument("the prompt is not valid Unicode: it has half of a surrogate pair") from error

    def has_more(self, text: str, num_tokens: int) -> bool:
        """Whether a text has more tokens than this; it is read no further than that is certain. False is uncertain."""
        for start in range(0, len(text), COUNTED_CHARS):
            part = text[start : start + COUNTED_CHARS]
            if self._takes_space:  # what takes the first space, or the last one, may be in another part, or be cut
                part = "".join(part.split(None, 1)[-1:])
                part = "".join(part.rsplit(None, 1)[:1])
            num_tokens += self._cut_tokens_max - len(self.encode_now(part, add_special_tokens=False))
            if num_tokens < 0:
                return True
        return False

    async def compute(self, size_chars: int, work: Callable[[], _T]) -> _T:
        """Do work on a text of this size, here if it is short, else in a thread."""
        if size_chars <= ENCODE_INLINE_CHARS_MAX:
            return work()
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{TOKENIZER_QUEUE_MAX} long prompts wait to be tokenized; try again later")
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of all these tokens."""
        return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def text_stream(self, prompt_token_ids: Sequence[int], *, skip_special_tokens: bool) -> TokenText:
        """Return a decoder of what is generated after this prompt."""
        if not self._is_byte_level:
            return StreamText(self._backend, prompt_token_ids, skip_special_tokens=skip_special_tokens)
        bytes_of = self._bytes_shown.get(skip_special_tokens)
        if bytes_of is None:
            bytes_of = TokenBytes(self._backend, skip_special_tokens=skip_special_tokens)
            self._bytes_shown[skip_special_tokens] = bytes_of
        return ByteLevelText(bytes_of)

    def close(self) -> None:
        """End the threads; what they have begun is finished, what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
