"""From the token ids of one stream to its text: the hot path of a frontend, a microsecond per token.

The text ends before the first stop string or stop token. Tokens of one `push` or of many: the text is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dynamo.llm._messages import PreprocessedRequest
from dynamo.llm._stop_strings import StopStrings
from dynamo.llm._tokenizer import Tokenizer


class Detokenizer:
    """The text of one generated stream, and where it stops."""

    __slots__ = ("_min_tokens", "_stop_token_ids", "_stops", "_text", "num_tokens", "stop_reason")

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int] = (),
        *,
        stop: Sequence[str] = (),
        stop_token_ids: Collection[int] = (),
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
        include_stop: bool = False,
    ) -> None:
        self._text = tokenizer.text_stream(prompt_token_ids, skip_special_tokens=skip_special_tokens)
        self._stops = StopStrings(stop, include_stop=include_stop) if stop else None
        self._stop_token_ids = frozenset(stop_token_ids)
        self._min_tokens = min_tokens
        #: How many tokens were taken, that which ended the text included.
        self.num_tokens = 0
        #: The stop string or the stop token that ended the text.
        self.stop_reason: str | int | None = None

    @classmethod
    def for_request(cls, tokenizer: Tokenizer, request: PreprocessedRequest) -> Detokenizer:
        """Return the detokenizer of one of the request's choices."""
        conditions = request.stop_conditions
        eos_token_ids = () if conditions.ignore_eos else request.eos_token_ids
        return cls(
            tokenizer,
            request.token_ids,
            stop=conditions.stop,
            stop_token_ids=(*conditions.stop_token_ids, *eos_token_ids),
            min_tokens=conditions.min_tokens,
            skip_special_tokens=request.output_options.skip_special_tokens,
        )

    @property
    def stopped(self) -> bool:
        """Whether a stop string or a stop token has come; tokens after it have no text."""
        return self.stop_reason is not None

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the text that may be shown now that these tokens have come."""
        if self._stops is not None or not self._stop_token_ids.isdisjoint(token_ids):
            return self._push_each(token_ids)
        if self.stop_reason is not None:
            return ""
        self.num_tokens += len(token_ids)
        return self._text.push(token_ids)

    def finish(self) -> str:
        """Return what was held back: no more tokens come."""
        rest = self._text.finish()
        if self._stops is None or self._stops.matched is not None:
            return rest
        return self._stopping(rest) + self._stops.finish()

    def _push_each(self, token_ids: Sequence[int]) -> str:
        """Push one token at a time, so that it is known which one ends the text."""
        pieces = []
        for token_id in token_ids:
            if self.stop_reason is not None:
                break
            self.num_tokens += 1
            if token_id in self._stop_token_ids and self.num_tokens > self._min_tokens:
                pieces.append(self.finish())
                if self.stop_reason is None:
                    self.stop_reason = token_id
            else:
                pieces.append(self._stopping(self._text.push((token_id,))))
        return "".join(pieces)

    def _stopping(self, text: str) -> str:
        stops = self._stops
        if stops is None or not text:
            return text
        text = stops.push(text, search=self.num_tokens > self._min_tokens)
        if stops.matched is not None:
            self.stop_reason = stops.matched
        return text
