"""What our engine needs of vLLM's, so that all but one file of this package runs and is tested without it.

`_vllm.py` has the real one. Its errors are ours: `InvalidArgument` for a request that it refuses, `Overloaded` for one
that it has no place for, `EngineShutdown` when its processes are gone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KvEventSource:
    """Where one data parallel rank tells of its blocks, and where it says again what was lost."""

    dp_rank: int
    endpoint: str
    replay_endpoint: str | None = None
    topic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreFacts:
    """What vLLM has made of its settings."""

    max_context_length: int
    vocab_size: int
    block_size: int
    #: Of one rank.
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    data_parallel_size: int = 1
    #: What the model's makers recommend, by vLLM's names; counts where a request says nothing.
    sampling_defaults: Mapping[str, object] = field(default_factory=dict)
    kv_events: tuple[KvEventSource, ...] = ()


class TokenLogprob(Protocol):
    """How likely a token is, as vLLM says it."""

    @property
    def logprob(self) -> float: ...

    @property
    def rank(self) -> int | None:
        """Its place among all tokens; the likeliest has 1."""


@dataclass(frozen=True, slots=True)
class Produced:
    """What is new of an answer."""

    token_ids: Sequence[int]
    #: vLLM's word for it.
    finish_reason: str | None = None
    #: Tokens of the prompt that were in the cache; None: not known yet.
    num_cached_tokens: int | None = None
    #: For each token the likeliest ones there, and itself.
    logprobs: Sequence[Mapping[int, TokenLogprob]] | None = None


class Core(Protocol):
    """vLLM's engine."""

    @property
    def facts(self) -> CoreFacts: ...

    def generate(
        self,
        token_ids: list[int],
        sampling: Mapping[str, object],
        request_id: str,
        dp_rank: int | None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[Produced, None]:
        """Yield what is new, to the first that has a `finish_reason`; closing it ends the request.

        A request is known by its id as soon as the first item is waited for. `sampling` are the arguments of vLLM's
        `SamplingParams`. Requests find what others have computed only if they have the same `cache_salt`, or none.
        """

    async def abort(self, request_id: str) -> None:
        """End a request, whose last item then says "abort". One that is not known is no error."""

    async def ended(self) -> None:
        """Return when the engine's processes are gone, or were told to go."""

    async def close(self) -> None:
        """End the engine's processes. A second call changes nothing."""
