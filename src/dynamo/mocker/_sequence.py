"""One request in a simulated engine: its tokens, and how far it has come."""

from __future__ import annotations

from array import array

from dynamo._core.blocks import BlockHasher
from dynamo._core.errors import InvalidArgument
from dynamo.llm._engine_request import completion_usage, num_prompt_tokens
from dynamo.llm._messages import CompletionUsage, FinishReason, PreprocessedRequest
from dynamo.mocker._answer import VOCABULARY, Answer, prompt_array
from dynamo.mocker._block_pool import Block


class TokenSequence:
    """The tokens of a prompt and of its answer, as far as there is one. Raises `InvalidArgument` for a wrong request.

    The answer goes on until something ends it, at the latest when both have `max_context_length` tokens.
    """

    __slots__ = (
        "_answer",
        "_block_size",
        "_hasher",
        "_max_tokens",
        "_min_tokens",
        "_num_resumed",
        "_stop_token_ids",
        "block_hashes",
        "blocks",
        "is_running",
        "num_cached_tokens",
        "num_computed",
        "num_generated",
        "num_prompt_tokens",
        "num_written",
        "token_ids",
        "tokens_hashes",
    )

    def __init__(
        self,
        request: PreprocessedRequest,
        *,
        block_size: int,
        max_context_length: int,
        vocabulary: range = VOCABULARY,
    ) -> None:
        self._max_tokens = _max_tokens(request, max_context_length)
        self._min_tokens = request.stop_conditions.min_tokens
        self._stop_token_ids = frozenset(request.stop_conditions.stop_token_ids)
        self._num_resumed = request.num_resumed_tokens
        self._block_size = block_size
        self._hasher = BlockHasher(block_size, lora_name=request.lora_name, cache_namespace=request.cache_salt)
        self.token_ids = prompt_array(request.token_ids)
        #: Without what another worker has generated.
        self.num_prompt_tokens = len(self.token_ids) - self._num_resumed
        prompt = self.token_ids[: self.num_prompt_tokens]
        self._answer = Answer(prompt, request.sampling_options, request.eos_token_ids, vocabulary)
        #: How many tokens were generated here.
        self.num_generated = 0
        #: What was in the cache when it ran first; None before.
        self.num_cached_tokens: int | None = None
        # Of its full blocks, as far as somebody asked: what is in each by itself, and what up to its end.
        self.tokens_hashes = array("Q")
        self.block_hashes = array("Q")
        # Where it stands in the engine. What it has computed is in its blocks; the first `num_written` can be found.
        self.is_running = False
        self.num_computed = 0
        self.num_written = 0
        self.blocks: list[Block] = []

    def hash_blocks(self, count: int) -> None:
        """Know the hashes of the first `count` blocks, which are full."""
        known = len(self.block_hashes)
        if count <= known:
            return
        size = self._block_size
        full = self._hasher.extend(self.token_ids[known * size : count * size])
        assert full is not None
        self.tokens_hashes.extend(full.tokens_hashes)
        self.block_hashes.extend(full.block_hashes)

    def generate(self) -> tuple[int, FinishReason | None]:
        """Append the next token; return it, and why it is the last, if it is."""
        token_id = self._answer[self._num_resumed + self.num_generated]
        self.token_ids.append(token_id)
        self.num_generated += 1
        if token_id in self._stop_token_ids and self.num_generated >= self._min_tokens:
            return token_id, "stop"
        return token_id, None if self.num_generated < self._max_tokens else "length"

    def usage(self) -> CompletionUsage:
        """Return the tokens so far; those of an answer that began elsewhere are the answer's, and not the prompt's."""
        return completion_usage(self.num_prompt_tokens, self._num_resumed + self.num_generated, self.num_cached_tokens)


def _max_tokens(request: PreprocessedRequest, max_context_length: int) -> int:
    """Check a request, and return how many tokens it gets at most."""
    num_tokens = len(request.token_ids)
    if not num_prompt_tokens(request):
        raise InvalidArgument("the prompt is empty")
    room = max_context_length - num_tokens
    if room < 1:
        raise InvalidArgument(
            f"the prompt has {num_tokens} tokens, and the context {max_context_length}: "
            "shorten it by at least one more than the difference"
        )
    wanted = request.stop_conditions.max_tokens
    if wanted is not None and wanted < 1:
        raise InvalidArgument(f"max_tokens={wanted} must be 1 or more")
    return room if wanted is None else min(wanted, room)
