"""What a simulated engine is like: the size of its KV cache, its batches and its speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamo._core.errors import ConfigError
from dynamo._core.stability import beta

BLOCK_SIZE = 64
NUM_GPU_BLOCKS = 16384
MAX_NUM_SEQS = 256
MAX_NUM_BATCHED_TOKENS = 8192
MAX_CONTEXT_LENGTH = 131072
DP_SIZE_MAX = 1024
#: The settings that are at least 1.
COUNTS = (
    "block_size",
    "num_gpu_blocks",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_context_length",
    "stream_interval",
)
#: Requests that wait for a place, per place; more are refused as `Overloaded`.
WAITING_PER_SEQ_MAX = 32


@beta(since="0.1")
@dataclass(frozen=True, kw_only=True)
class MockerConfig:
    """The settings of a simulated engine, under vLLM's names. Raises `ConfigError` for those that make no sense.

    Its cache has `num_gpu_blocks` blocks of `block_size` tokens. At most `max_num_seqs` requests run at a time, with
    `max_num_batched_tokens` new tokens in a step, and `max_context_length` is how many tokens a prompt and its answer
    may have together.

    With a `speedup_ratio` of 2 everything takes half the time, and with 0 none; `decode_speedup_ratio` is
    for decoding alone, beside the other. Each of the `dp_size` ranks has all the blocks and places. After its
    first token an answer comes `stream_interval` tokens at a time: a simulation that looks at no single token
    is faster with more than one.
    """

    block_size: int = BLOCK_SIZE
    num_gpu_blocks: int = NUM_GPU_BLOCKS
    max_num_seqs: int = MAX_NUM_SEQS
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    max_context_length: int = MAX_CONTEXT_LENGTH
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    speedup_ratio: float = 1.0
    decode_speedup_ratio: float = 1.0
    dp_size: int = 1
    stream_interval: int = 1

    def __post_init__(self) -> None:
        for setting in COUNTS:
            check_setting(setting, getattr(self, setting), 1, math.inf)
        check_setting("dp_size", self.dp_size, 1, DP_SIZE_MAX)
        for setting in ("speedup_ratio", "decode_speedup_ratio"):
            check_setting(setting, getattr(self, setting), 0, math.inf)
        self._check_that_every_request_can_run()

    @property
    def num_requests_waiting_max(self) -> int:
        """So many requests wait at each rank before others are refused."""
        return WAITING_PER_SEQ_MAX * self.max_num_seqs

    def _check_that_every_request_can_run(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} gives not each of "
                f"max_num_seqs={self.max_num_seqs} requests a token per step: raise the one or lower the other"
            )
        if self.num_gpu_blocks * self.block_size < self.max_context_length:
            raise ConfigError(
                f"num_gpu_blocks={self.num_gpu_blocks} of {self.block_size} tokens do not hold one request of "
                f"{self.max_context_length} tokens: raise num_gpu_blocks or lower the context length"
            )
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_context_length:
            raise ConfigError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is less than a prompt of "
                f"{self.max_context_length} tokens, which may not be cut without enable_chunked_prefill: raise it, "
                "lower the context length, or enable chunked prefill"
            )


def check_setting(setting: str, value: float, least: float, most: float) -> None:
    """Raise `ConfigError` unless a setting is a number from `least` to `most`."""
    if not (math.isfinite(value) and least <= value <= most):
        allowed = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ConfigError(f"{setting}={value} must be {allowed}", setting=setting)
