"""How the next token is chosen.

Each request has its own source of chance, and one number is drawn from it per token, so what a seed
gives does not depend on who else is in the batch. (The logits do, in their last bits: a batch of
another size may round another way. In float32 that is too little to change a choice in practice; in
bfloat16 it now and then is enough.)

The order is the library's: penalties, then temperature, top-k, top-p, min-p. Log-probabilities are
those of the model, before any of it.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dynamo._core.errors import InvalidArgument
from dynamo.llm._limits import LOGPROBS_MAX
from dynamo.llm._messages import SamplingOptions

T = TypeVar("T")

#: Below this a temperature means greedy; dividing by it would overflow.
TEMPERATURE_MIN = 1e-5
#: A larger number times the total may be rounded up to it, past the last token that has any probability.
UNIFORM_MAX = 1 - 2**-23


@dataclass(frozen=True, slots=True)
class Warp:
    """What reshapes the distribution; rows with the same one are reshaped together."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def is_greedy(self) -> bool:
        return self.temperature < TEMPERATURE_MIN

    def processors(self) -> LogitsProcessorList:
        """Return the library's processors that do it."""
        processors = LogitsProcessorList()
        if self.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k > 0:
            processors.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            processors.append(TopPLogitsWarper(self.top_p))
        if self.min_p > 0.0:
            processors.append(MinPLogitsWarper(self.min_p))
        return processors


@dataclass(slots=True)
class Sampler:
    """How one request chooses, and what it has chosen so far."""

    warp: Warp
    rng: random.Random
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    #: None: no log-probabilities; 0: of the chosen tokens; more: also of that many best ones.
    num_top_logprobs: int | None = None
    counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def from_options(
        cls, options: SamplingOptions, defaults: SamplingOptions, seed: int, num_top_logprobs: int | None
    ) -> Sampler:
        """Read a request's options; raise `InvalidArgument` for one that makes no sense."""
        if options.n != 1:
            raise InvalidArgument(f"n={options.n}: an engine gives one choice per request; send {options.n} requests")
        top_k = _first(options.top_k, defaults.top_k, 0)
        if top_k < -1:
            raise InvalidArgument(f"top_k={top_k} is out of range: use 1 or more, or -1 or 0 for no limit")
        if num_top_logprobs is not None and not 0 <= num_top_logprobs <= LOGPROBS_MAX:
            raise InvalidArgument(f"logprobs={num_top_logprobs} is out of range: use 0 to {LOGPROBS_MAX}")
        return cls(
            warp=Warp(
                temperature=_checked("temperature", _first(options.temperature, defaults.temperature, 1.0), 0, 100),
                top_k=max(top_k, 0),
                top_p=_checked("top_p", _first(options.top_p, defaults.top_p, 1.0), 0, 1),
                min_p=_checked("min_p", _first(options.min_p, defaults.min_p, 0.0), 0, 1),
            ),
            # As an unsigned number: to `Random`, a negative seed is the positive one.
            rng=random.Random((seed if options.seed is None else options.seed) % 2**64),
            repetition_penalty=_checked(
                "repetition_penalty", _first(options.repetition_penalty, defaults.repetition_penalty, 1.0), 1e-3, 1e3
            ),
            presence_penalty=_checked("presence_penalty", options.presence_penalty or 0.0, -100, 100),
            frequency_penalty=_checked("frequency_penalty", options.frequency_penalty or 0.0, -100, 100),
            num_top_logprobs=num_top_logprobs,
        )

    def resume(self, token_ids: Sequence[int]) -> None:
        """Take these as chosen already: the next token is the one that would have followed them."""
        self.counts.update(token_ids)
        if not self.warp.is_greedy:
            for _ in token_ids:
                self.rng.random()

    def penalize(self, scores: torch.Tensor, token_ids: Sequence[int]) -> None:
        """Change the scores of one row, in place; `token_ids` are those of prompt and output."""
        if self.repetition_penalty != 1.0:
            seen = torch.tensor([token_ids], device=scores.device)
            scores.copy_(RepetitionPenaltyLogitsProcessor(self.repetition_penalty)(seen, scores[None])[0])
        if self.counts and (self.presence_penalty or self.frequency_penalty):
            chosen = torch.tensor(list(self.counts), device=scores.device)
            times = torch.tensor(list(self.counts.values()), device=scores.device, dtype=scores.dtype)
            scores[chosen] -= self.presence_penalty + self.frequency_penalty * times


@dataclass(frozen=True, slots=True)
class Choice:
    """A token, and how likely the model found it if that was asked for."""

    token_id: int
    log_prob: float | None = None
    #: The best tokens, best first, with their log-probabilities.
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One row's part in a choice."""

    sampler: Sampler
    token_ids: Sequence[int]
    #: Tokens that must not come yet.
    banned: Sequence[int] = ()


def choose(logits: torch.Tensor, turns: Sequence[Turn]) -> list[Choice | None]:
    """Choose a token for each row of `logits`; None where the model gave no numbers, or none may come."""
    logits = logits.float()
    scores = logits.clone()
    for row, turn in enumerate(turns):
        turn.sampler.penalize(scores[row], turn.token_ids)
        if turn.banned:
            scores[row, list(turn.banned)] = -math.inf
    tokens = scores.argmax(dim=-1)
    for warp, rows in _by_warp(turns).items():
        index = torch.tensor(rows, device=scores.device)
        # The four processors take token ids as all do, but do not look at them.
        warped = warp.processors()(torch.LongTensor(), scores[index])
        tokens[index] = _draw(warped, [turns[row].sampler.rng.random() for row in rows])
    chosen: list[int] = tokens.tolist()
    # A row of which all tokens are banned is not sound either.
    sound: list[bool] = scores.amax(dim=-1).isfinite().tolist()
    choices: list[Choice | None] = []
    for row, turn in enumerate(turns):
        if not sound[row]:
            choices.append(None)
            continue
        turn.sampler.counts[chosen[row]] += 1
        choices.append(_with_log_probs(logits[row], chosen[row], turn.sampler.num_top_logprobs))
    return choices


def _by_warp(turns: Sequence[Turn]) -> dict[Warp, list[int]]:
    rows: dict[Warp, list[int]] = defaultdict(list)
    for row, turn in enumerate(turns):
        if not turn.sampler.warp.is_greedy:
            rows[turn.sampler.warp].append(row)
    return rows


def _draw(scores: torch.Tensor, uniform: Sequence[float]) -> torch.Tensor:
    """Return, for each row, the token at which the cumulative probability passes its uniform number."""
    cumulative = scores.softmax(dim=-1).cumsum(dim=-1)
    share = torch.tensor([min(u, UNIFORM_MAX) for u in uniform], device=scores.device, dtype=scores.dtype)
    return torch.searchsorted(cumulative, share[:, None] * cumulative[:, -1:], right=True)[:, 0]


def _with_log_probs(logits: torch.Tensor, token_id: int, num_top: int | None) -> Choice:
    if num_top is None:
        return Choice(token_id)
    log_probs = logits.log_softmax(dim=-1)
    best = log_probs.topk(min(num_top, log_probs.shape[-1]))
    top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Choice(token_id, float(log_probs[token_id]), tuple(top))


def _first(*values: T | None) -> T:
    return next(value for value in values if value is not None)


def _checked(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise InvalidArgument(f"{name}={value} is out of range: use {low} to {high}", param=name)
    return float(value)
