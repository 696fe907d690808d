"""Which request runs when, one forward pass of the model at a time.

A request waits, is prefilled together with others that wait, and then decodes in one batch with all
that run. A long prompt is prefilled in parts, and a decode step comes between two parts, so nobody
stalls behind it. Requests join and leave between any two passes.

The KV cache has a budget in cells: rows times columns. When the running requests outgrow it, the
youngest goes back to the front of the queue and is prefilled again later, with what it has generated.

What is found in the prefix cache is copied in before a prefill begins, which then reads the rest only. It is one
rectangle for all of its rows: a row of which less is to be read than of another computes some of what was found again.

Nothing here knows of threads or of asyncio; a single thread calls it.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from dynamo.transformers._kv_cache import RowsCache
from dynamo.transformers._prefix_cache import PrefixCache
from dynamo.transformers._row import Row, Step
from dynamo.transformers._sampling import choose

T = TypeVar("T")

#: Tokens of one prefill pass, padding included.
PREFILL_TOKENS_MAX = 2048
#: Cells of a prefill of several rows: until they have joined those that run, it is beyond the cache's budget.
PREFILL_CELLS_MAX = 8 * PREFILL_TOKENS_MAX
#: A request joins others only while this much of the cache's budget stays free, so that it is not
#: sent back at once.
FREE_SHARE_TO_JOIN = 0.1


@dataclass(slots=True)
class _Prefill:
    """Rows whose prompts are being read, padded on the left to the same width."""

    rows: list[Row]
    width: int
    cache: RowsCache


@dataclass(slots=True)
class Counts:
    """What was done since the start; the names are those of vLLM's metrics."""

    #: Tokens that were looked for in the prefix cache, and found.
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0


class Scheduler:
    """Runs requests through a model."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_num_seqs: int,
        kv_cells_max: int,
        prefixes: PrefixCache,
        prefill_tokens_max: int = PREFILL_TOKENS_MAX,
        prefill_cells_max: int = PREFILL_CELLS_MAX,
    ) -> None:
        self._model = model
        self._config: PreTrainedConfig = model.config
        self._max_num_seqs = max_num_seqs
        self._kv_cells_max = kv_cells_max
        self._prefixes = prefixes
        self._prefill_tokens_max = prefill_tokens_max
        self._prefill_cells_max = prefill_cells_max
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
        self.counts = Counts()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running) + (len(self._prefill.rows) if self._prefill else 0)

    @property
    def kv_cache_usage(self) -> float:
        """How much of the cache's budget the requests have that run, from 0 to 1."""
        return min(1.0, len(self._running) * self._cache.width / self._kv_cells_max)

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
        width = num_columns = 0
        while self._waiting and len(self._running) + len(rows) < self._max_num_seqs:
            row = self._waiting[0]
            widened = max(width, len(row.token_ids))
            if (rows or self._running) and not self._may_join(len(rows) + 1, widened):
                break
            num_found = self._prefixes.num_found(row)
            lengthened = max(num_columns, len(row.token_ids) - num_found)
            if rows and not self._may_be_read_with(rows, row, num_found, widened, lengthened):
                break
            self._count_begun(row, num_found)
            rows.append(self._waiting.popleft())
            width, num_columns = widened, lengthened
        if rows:
            self._prefill = _Prefill(rows, width, RowsCache(self._config))
            if num_columns < width:
                self._prefixes.load(rows, width, width - num_columns, self._prefill.cache)

    def _may_be_read_with(self, rows: Sequence[Row], row: Row, num_found: int, width: int, num_columns: int) -> bool:
        """Whether a row may join a prefill, which then is `width` wide and has so many columns to read."""
        num_rows = len(rows) + 1
        if num_columns * num_rows > self._prefill_tokens_max or width * num_rows > self._prefill_cells_max:
            return False
        # What the others are about to compute, it waits for.
        return not self._prefixes.will_be_found(row, num_found, rows)

    def _count_begun(self, row: Row, num_found: int) -> None:
        if self._prefixes.num_blocks:
            self.counts.prefix_cache_queries += len(row.token_ids)
            self.counts.prefix_cache_hits += num_found
        if row.num_cached_tokens is None:
            row.num_cached_tokens = num_found
            self.counts.prompt_tokens += row.num_prompt_tokens

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
        steps = self._choose(logits, prefill.rows)
        for index, step in enumerate(steps):
            # Of a row that gave no number, keys and values may be none either.
            if step.choice is not None:
                self._prefixes.keep(step.row, lengths[index], prefill.cache, index)
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
        steps = self._choose(logits, rows)
        for index in reversed(range(len(steps))):
            if steps[index].finish_reason is not None:
                self._leave(index, is_sound=steps[index].choice is not None)
        return steps

    def _send_back_what_does_not_fit(self) -> None:
        while len(self._running) > 1 and not self._fits():
            youngest = max(range(len(self._running)), key=lambda index: self._running[index].arrival)
            row = self._running[youngest]
            self._leave(youngest)
            self._waiting.appendleft(row)
            self.counts.num_preemptions += 1

    def _fits(self) -> bool:
        prefill_rows, prefill_width = (len(self._prefill.rows), self._prefill.width) if self._prefill else (0, 0)
        width = max(prefill_width, self._cache.width + 1)
        return (len(self._running) + prefill_rows) * width <= self._kv_cells_max

    def _leave(self, index: int, *, is_sound: bool = True) -> None:
        if is_sound:
            row = self._running[index]
            self._prefixes.keep(row, len(row.token_ids) - 1, self._cache, index)
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

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[Step]:
        choices = choose(logits, [row.turn() for row in rows])
        self.counts.generation_tokens += sum(choice is not None for choice in choices)
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
