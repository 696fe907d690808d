"""Which request runs when, one forward pass of the model at a time.

A request waits, is prefilled together with others that wait, and then decodes in one batch with all
that run. A long prompt is prefilled in parts, and a decode step comes between two parts, so nobody
stalls behind it. Requests join and leave between any two passes.

The KV cache has a budget in cells: rows times columns. When the running requests outgrow it, the
youngest goes back to the front of the queue and is prefilled again later, with what it has generated.

Nothing here knows of threads or of asyncio; a single thread calls it.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from dynamo.llm._messages import FinishReason
from dynamo.transformers._kv_cache import RowsCache
from dynamo.transformers._sampling import Choice, Sampler, Turn, choose

T = TypeVar("T")

#: Tokens of one prefill pass, padding included.
PREFILL_TOKENS_MAX = 2048
#: A request joins others only while this much of the cache's budget stays free, so that it is not
#: sent back at once.
FREE_SHARE_TO_JOIN = 0.1


@dataclass(slots=True, eq=False)
class Row:
    """One request, and how far it has come."""

    token_ids: list[int]
    sampler: Sampler
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    #: Set by whoever no longer wants the request; it then leaves before the next pass.
    is_cancelled: bool = False
    num_prompt_tokens: int = field(init=False)
    arrival: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def turn(self) -> Turn:
        is_too_early = self.num_generated < self.min_tokens
        return Turn(self.sampler, self.token_ids, tuple(self.stop_token_ids) if is_too_early else ())

    def accept(self, choice: Choice) -> FinishReason | None:
        """Take a token, and return why the request is done, if it is."""
        self.token_ids.append(choice.token_id)
        if choice.token_id in self.stop_token_ids:
            return "stop"
        return "length" if self.num_generated >= self.max_tokens else None


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass gave one request; no choice: the model's output for it was not a number."""

    row: Row
    choice: Choice | None
    finish_reason: FinishReason | None


@dataclass(slots=True)
class _Prefill:
    """Rows whose prompts are being read, padded on the left to the same width."""

    rows: list[Row]
    width: int
    cache: RowsCache


class Scheduler:
    """Runs requests through a model."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_num_seqs: int,
        kv_cells_max: int,
        prefill_tokens_max: int = PREFILL_TOKENS_MAX,
    ) -> None:
        self._model = model
        self._config: PreTrainedConfig = model.config
        self._max_num_seqs = max_num_seqs
        self._kv_cells_max = kv_cells_max
        self._prefill_tokens_max = prefill_tokens_max
        accepted = inspect.signature(model.forward).parameters
        self._takes_position_ids = "position_ids" in accepted
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        # The mutable state: where each request is. A request is in exactly one of the three.
        self._waiting: deque[Row] = deque()
        self._prefill: _Prefill | None = None
        self._running: list[Row] = []
        self._cache = RowsCache(self._config)
        self._num_arrived = 0
        self._decoded_last = False

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running) + (len(self._prefill.rows) if self._prefill else 0)

    def add(self, row: Row) -> None:
        """Let a request wait for its turn."""
        self._num_arrived += 1
        row.arrival = self._num_arrived
        self._waiting.append(row)

    def step(self) -> list[Step]:
        """Do one pass, if there is something to do, and return what it gave."""
        self._drop_cancelled()
        if self._prefill is None:
            self._begin_prefill()
        if self._prefill is not None and (self._decoded_last or not self._running):
            self._decoded_last = False
            return self._advance_prefill(self._prefill)
        self._decoded_last = True
        return self._decode() if self._running else []

    def _drop_cancelled(self) -> None:
        if any(row.is_cancelled for row in self._waiting):
            self._waiting = deque(row for row in self._waiting if not row.is_cancelled)
        for index in reversed(range(len(self._running))):
            if self._running[index].is_cancelled:
                self._leave(index)
        if self._prefill is not None:
            for index in reversed(range(len(self._prefill.rows))):
                if self._prefill.rows[index].is_cancelled:
                    _remove_from_prefill(self._prefill, index)
            if not self._prefill.rows:
                self._prefill = None

    def _begin_prefill(self) -> None:
        """Take from the queue, in order, as many requests as there is place for."""
        rows: list[Row] = []
        width = 0
        while self._waiting and len(self._running) + len(rows) < self._max_num_seqs:
            widened = max(width, len(self._waiting[0].token_ids))
            if rows and widened * (len(rows) + 1) > self._prefill_tokens_max:
                break
            if (rows or self._running) and not self._may_join(len(rows) + 1, widened):
                break
            rows.append(self._waiting.popleft())
            width = widened
        if rows:
            self._prefill = _Prefill(rows, width, RowsCache(self._config))

    def _may_join(self, num_rows: int, width: int) -> bool:
        cells = (len(self._running) + num_rows) * max(width, self._cache.width + 1)
        return cells <= self._kv_cells_max * (1 - FREE_SHARE_TO_JOIN)

    def _advance_prefill(self, prefill: _Prefill) -> list[Step]:
        """Read the next part of the prompts; after the last part the rows have their first tokens."""
        begin = prefill.cache.width
        end = min(prefill.width, begin + max(1, self._prefill_tokens_max // len(prefill.rows)))
        pads = [prefill.width - len(row.token_ids) for row in prefill.rows]
        part = [
            [row.token_ids[column - pad] if column >= pad else 0 for column in range(begin, end)]
            for row, pad in zip(prefill.rows, pads, strict=True)
        ]
        logits = self._forward(prefill.cache, part, pads)
        if end < prefill.width:
            return []
        lengths = [len(row.token_ids) for row in prefill.rows]
        steps = _choose(logits, prefill.rows)
        for index in reversed(range(len(steps))):
            if steps[index].finish_reason is not None:
                _remove_from_prefill(prefill, index)
                _take_out(lengths, index)
        if prefill.rows:
            self._running += prefill.rows
            self._cache.absorb(prefill.cache, lengths)
        self._prefill = None
        return steps

    def _decode(self) -> list[Step]:
        """Give every running request its next token."""
        self._send_back_what_does_not_fit()
        rows = self._running
        width = self._cache.width
        # The last token of a row is the input now: it is not in the cache yet.
        pads = [width - (len(row.token_ids) - 1) for row in rows]
        logits = self._forward(self._cache, [[row.token_ids[-1]] for row in rows], pads)
        steps = _choose(logits, rows)
        for index in reversed(range(len(steps))):
            if steps[index].finish_reason is not None:
                self._leave(index)
        return steps

    def _send_back_what_does_not_fit(self) -> None:
        while len(self._running) > 1 and not self._fits():
            youngest = max(range(len(self._running)), key=lambda index: self._running[index].arrival)
            row = self._running[youngest]
            self._leave(youngest)
            self._waiting.appendleft(row)

    def _fits(self) -> bool:
        prefill_rows, prefill_width = (len(self._prefill.rows), self._prefill.width) if self._prefill else (0, 0)
        width = max(prefill_width, self._cache.width + 1)
        return (len(self._running) + prefill_rows) * width <= self._kv_cells_max

    def _leave(self, index: int) -> None:
        _take_out(self._running, index)
        self._cache.remove(index, max((len(row.token_ids) - 1 for row in self._running), default=0))

    def _forward(self, cache: RowsCache, token_ids: list[list[int]], pads: Sequence[int]) -> torch.Tensor:
        """Append columns to every row; return the logits after the last one."""
        device = self._model.device
        begin = cache.width
        columns = torch.arange(begin + len(token_ids[0]), device=device)
        pad = torch.tensor(pads, device=device)[:, None]
        inputs: dict[str, object] = dict(self._extra)
        if self._takes_position_ids:
            inputs["position_ids"] = (columns[begin:] - pad).clamp(min=0)
        output = self._model(
            input_ids=torch.tensor(token_ids, device=device),
            attention_mask=(columns >= pad).long(),
            past_key_values=cache,
            use_cache=True,
            **inputs,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[Step]:
    choices = choose(logits, [row.turn() for row in rows])
    return [
        Step(row, choice, "error" if choice is None else row.accept(choice))
        for row, choice in zip(rows, choices, strict=True)
    ]


def _remove_from_prefill(prefill: _Prefill, index: int) -> None:
    _take_out(prefill.rows, index)
    prefill.cache.remove(index, prefill.cache.width)


def _take_out(items: list[T], index: int) -> None:
    """Remove an item as the cache removes a row: the last one takes its place."""
    items[index] = items[-1]
    items.pop()
