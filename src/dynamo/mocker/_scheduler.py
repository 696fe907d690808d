"""Which request runs when, in a simulated engine: vLLM's continuous batching, without a model.

A step computes at most `max_num_batched_tokens` tokens. First every request that runs gets what it still lacks:
one token if it decodes, the rest of its prompt or a part of it if not. What is left goes to those that wait, in
their order; what the cache holds of a prompt is not computed again. If the blocks do not suffice, the request
that was let in last goes back to the front of the queue, gives its blocks back, and begins again later with what
it has generated.

Nothing here knows of time or of asyncio. Between `schedule` and `complete` a step runs; a request that is
removed meanwhile gets nothing from it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from dynamo._core.errors import Overloaded
from dynamo.llm._messages import FinishReason
from dynamo.mocker._block_pool import BlockPool
from dynamo.mocker._config import MockerConfig
from dynamo.mocker._sequence import TokenSequence
from dynamo.mocker._timing import StepWork


class Generated(NamedTuple):
    """A token that a step gave a request."""

    sequence: TokenSequence
    token_id: int
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Step:
    """What is computed at one go: so many tokens of each of these."""

    parts: list[tuple[TokenSequence, int]]
    work: StepWork


@dataclass(slots=True)
class Counts:
    """What has happened since the start; the names are those of vLLM's metrics."""

    #: Tokens that were looked for in the cache, and found: once per request.
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    num_steps: int = 0


class Scheduler:
    """The requests of one rank, and its blocks."""

    def __init__(self, config: MockerConfig, pool: BlockPool) -> None:
        self._config = config
        self._pool = pool
        self.counts = Counts()
        # The mutable state: a request is in at most one of the two, those that run in the order they were let in.
        self._waiting: deque[TokenSequence] = deque()
        self._running: list[TokenSequence] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def add(self, sequence: TokenSequence) -> None:
        """Let a request wait for its turn. Raises `Overloaded` if too many do."""
        if len(self._waiting) >= self._config.num_requests_waiting_max:
            raise Overloaded(f"{len(self._waiting)} requests wait for the engine already: try again later")
        self._waiting.append(sequence)

    def remove(self, sequence: TokenSequence) -> None:
        """Forget a request, and free its blocks. One that has ended is no error."""
        if sequence.is_running:
            self._running.remove(sequence)
            self._leave(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def schedule(self) -> Step:
        """Choose what is computed next, and see to the blocks for it. There must be work."""
        parts: list[tuple[TokenSequence, int]] = []
        budget = self._config.max_num_batched_tokens
        num_preemptions, size = self.counts.num_preemptions, self._config.block_size
        while budget and len(parts) < len(self._running):
            sequence = self._running[len(parts)]
            count = len(sequence.token_ids) - sequence.num_computed
            if count > budget:
                count = budget
            # Most steps need no block, and a function called for each token costs a tenth of all.
            if sequence.num_computed + count > len(sequence.blocks) * size and not self._make_room(sequence, count):
                break
            parts.append((sequence, count))
            budget -= count
        if num_preemptions == self.counts.num_preemptions:
            self._let_in(parts, budget)
        assert parts, "there is work, and nothing can run"
        self.counts.num_steps += 1
        return Step(parts, _work(parts))

    def complete(self, step: Step) -> list[Generated]:
        """Take a step for done; return the tokens that it gave."""
        generated: list[Generated] = []
        size, is_caching = self._config.block_size, self._config.enable_prefix_caching
        for sequence, count in step.parts:
            if not sequence.is_running:
                continue
            sequence.num_computed = num_computed = sequence.num_computed + count
            if is_caching and num_computed >= (sequence.num_written + 1) * size:
                self._write_full_blocks(sequence)
            if num_computed < len(sequence.token_ids):
                continue
            token_id, reason = sequence.generate()
            generated.append(Generated(sequence, token_id, reason))
            if reason is not None:
                self.remove(sequence)
        self.counts.generation_tokens += len(generated)
        return generated

    def check(self) -> None:
        """Assert that no block is lost, and that everybody is where they should be."""
        self._pool.check([sequence.blocks for sequence in (*self._running, *self._waiting)])
        assert len(self._running) <= self._config.max_num_seqs
        for sequence in self._waiting:
            assert (sequence.is_running, sequence.blocks, sequence.num_computed) == (False, [], 0)
        for sequence in self._running:
            assert sequence.is_running
            assert sequence.num_written <= sequence.num_computed // self._config.block_size
            assert sequence.num_computed <= len(sequence.blocks) * self._config.block_size
            assert sequence.num_computed < len(sequence.token_ids)

    def _make_room(self, sequence: TokenSequence, count: int) -> bool:
        """Give a running request the blocks for so many tokens; False if it had to go back to the queue itself."""
        num_new = self._num_blocks(sequence.num_computed + count) - len(sequence.blocks)
        while (blocks := self._pool.take((), num_new)) is None:
            last = self._running.pop()
            self._leave(last)
            self._waiting.appendleft(last)
            self.counts.num_preemptions += 1
            if last is sequence:
                return False
        sequence.blocks += blocks
        return True

    def _let_in(self, parts: list[tuple[TokenSequence, int]], budget: int) -> None:
        """Begin with those that wait, until the budget, the places or the blocks are used up."""
        while budget and self._waiting and len(self._running) < self._config.max_num_seqs:
            sequence = self._waiting[0]
            num_found = self._num_found(sequence)
            num_cached = num_found * self._config.block_size
            count = len(sequence.token_ids) - num_cached
            if count > budget:
                if not self._config.enable_chunked_prefill:
                    return
                count = budget
            num_new = self._num_blocks(num_cached + count) - num_found
            blocks = self._pool.take(sequence.block_hashes[:num_found], num_new)
            if blocks is None:
                return
            self._waiting.popleft()
            self._running.append(sequence)
            sequence.is_running = True
            sequence.blocks = blocks
            sequence.num_computed, sequence.num_written = num_cached, num_found
            if sequence.num_cached_tokens is None:
                sequence.num_cached_tokens = num_cached
                self.counts.prompt_tokens += len(sequence.token_ids)
                if self._config.enable_prefix_caching:
                    self.counts.prefix_cache_queries += len(sequence.token_ids)
                    self.counts.prefix_cache_hits += num_cached
            parts.append((sequence, count))
            budget -= count

    def _num_found(self, sequence: TokenSequence) -> int:
        """How many blocks of a request are in the cache. The last token is computed in any case: it gives the next."""
        if not self._config.enable_prefix_caching:
            return 0
        limit = (len(sequence.token_ids) - 1) // self._config.block_size
        sequence.hash_blocks(limit)
        return self._pool.num_found(sequence.block_hashes, limit)

    def _write_full_blocks(self, sequence: TokenSequence) -> None:
        """Let others find what a request has computed."""
        size, begin = self._config.block_size, sequence.num_written
        end = sequence.num_computed // size
        sequence.hash_blocks(end)
        self._pool.write(
            sequence.blocks,
            begin,
            sequence.block_hashes,
            sequence.tokens_hashes[begin:end],
            sequence.token_ids[begin * size : end * size],
        )
        sequence.num_written = end

    def _leave(self, sequence: TokenSequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.is_running = False
        sequence.num_computed = sequence.num_written = 0

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._config.block_size)


def _work(parts: list[tuple[TokenSequence, int]]) -> StepWork:
    """Add up what a step computes. A request decodes if all but its newest token is computed, and it has generated."""
    num_tokens = num_pairs = num_decodes = num_kv_tokens = 0
    for sequence, count in parts:
        before = sequence.num_computed
        if count == 1 and sequence.num_generated and before + 1 == len(sequence.token_ids):
            num_decodes += 1
            num_kv_tokens += before
        else:
            num_tokens += count
            num_pairs += count * before + count * count // 2
    return StepWork(num_tokens, num_pairs, num_decodes, num_kv_tokens)
