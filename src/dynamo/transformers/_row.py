"""One request on its way through the scheduler, and what a pass gave it."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamo.llm._messages import FinishReason
from dynamo.transformers._block_pool import BlockChain
from dynamo.transformers._sampling import Choice, Sampler, Turn


@dataclass(slots=True, eq=False)
class Row:
    """One request, and how far it has come."""

    token_ids: list[int]
    sampler: Sampler
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    chain: BlockChain = field(default_factory=BlockChain)
    #: Set by whoever no longer wants the request; it then leaves before the next pass.
    is_cancelled: bool = False
    num_prompt_tokens: int = field(init=False)
    arrival: int = field(init=False, default=0)
    #: How much of it was in blocks when it ran first; None before.
    num_cached_tokens: int | None = field(init=False, default=None)

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
    """What one pass gave one request; no choice: the model gave it no number, or no token may come."""

    row: Row
    choice: Choice | None
    finish_reason: FinishReason | None
