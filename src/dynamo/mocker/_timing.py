"""How long a step of a simulated engine takes.

The times that `PolynomialTiming` has by default are estimates for a model of 8 billion parameters with
grouped queries (32 layers, 8 KV heads of 128) in bfloat16 on one H100: what its arithmetic takes at 400
teraflops, and its memory traffic at 2.4 terabytes a second. They are computed, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dynamo._core.stability import beta


@beta(since="0.1")
@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step computes.

    A pair is a new token and one that it attends to. KV tokens are those that the decoding requests read
    from the cache.
    """

    num_prefill_tokens: int = 0
    num_prefill_pairs: int = 0
    num_decodes: int = 0
    num_decode_kv_tokens: int = 0


@beta(since="0.1")
class TimingModel(Protocol):
    """Says how long a step takes; both parts add up."""

    def prefill_s(self, work: StepWork) -> float:
        """The time for the prompts, and what a step without any decoding takes in any case."""

    def decode_s(self, work: StepWork) -> float:
        """The time for the tokens that are generated; 0 if none is."""


@beta(since="0.1")
@dataclass(frozen=True, slots=True, kw_only=True)
class PolynomialTiming:
    """Linear in the new tokens of prompts and quadratic by their attention; linear in what decoding reads.

    A prompt of n tokens of which c are cached takes `token_s * (n - c) + pair_s * (n**2 - c**2) / 2`, in
    however many steps. Every step takes `base_s` besides, for reading the weights.
    """

    base_s: float = 6.7e-3
    prefill_token_s: float = 4.0e-5
    prefill_pair_s: float = 1.3e-9
    decode_request_s: float = 4.0e-5
    decode_kv_token_s: float = 5.5e-8

    def prefill_s(self, work: StepWork) -> float:
        """Seconds for the prompts, and for reading the weights if nothing is decoded."""
        base_s = 0.0 if work.num_decodes else self.base_s
        return base_s + self.prefill_token_s * work.num_prefill_tokens + self.prefill_pair_s * work.num_prefill_pairs

    def decode_s(self, work: StepWork) -> float:
        """Seconds for the tokens that are generated, and for reading the weights; 0 if none is."""
        if not work.num_decodes:
            return 0.0
        return (
            self.base_s + self.decode_request_s * work.num_decodes + self.decode_kv_token_s * work.num_decode_kv_tokens
        )


def step_s(timing: TimingModel, work: StepWork, speedup_ratio: float, decode_speedup_ratio: float) -> float:
    """How long a step takes at this speed; a ratio of 0 leaves no time."""
    if not speedup_ratio:
        return 0.0
    decode_s = timing.decode_s(work) / decode_speedup_ratio if decode_speedup_ratio else 0.0
    return (timing.prefill_s(work) + decode_s) / speedup_ratio
