"""What a simulated engine says: the token at each place is a function of the prompt, the parameters and the place.

So it does not matter which worker generates it, with what else in the batch, or how often it had to begin again.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo.llm._messages import PreprocessedRequest, SamplingOptions

#: Where tokenizers have words: before it are often special tokens and bytes, and few vocabularies end before 32,000.
FIRST_TOKEN_ID, TOKEN_ID_END = 1000, 32000

_U64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
#: Of this many tokens in a row one is none that ends the sequence, or the request is refused.
EOS_TOKENS_MAX = 256


def vocabulary_of(vocab_size: int) -> range:
    """The tokens to answer with for a model with so many."""
    if vocab_size >= 2 * FIRST_TOKEN_ID:
        return range(FIRST_TOKEN_ID, min(vocab_size, TOKEN_ID_END))
    return range(vocab_size)


VOCABULARY = vocabulary_of(TOKEN_ID_END)


def prompt_array(token_ids: Sequence[int]) -> array[int]:
    """Return token ids as packed numbers. Raises `InvalidArgument` for what is no token id."""
    try:
        return array("I", token_ids)
    except (OverflowError, TypeError) as error:
        raise InvalidArgument(f"token ids must be whole numbers from 0 to {2**32 - 1}: {error}") from error


class Answer:
    """The endless answer to a prompt. Tokens that end a sequence are not in it: its length is up to the request."""

    __slots__ = ("_eos_token_ids", "_key", "_vocabulary")

    def __init__(
        self,
        prompt: array[int],
        sampling: SamplingOptions,
        eos_token_ids: Sequence[int] = (),
        vocabulary: range = VOCABULARY,
    ) -> None:
        if len(set(eos_token_ids)) > min(EOS_TOKENS_MAX, len(vocabulary) - 1):
            raise InvalidArgument(f"{len(eos_token_ids)} tokens that end the sequence leave none to answer with")
        digest = hashlib.blake2b(prompt.tobytes(), digest_size=8)
        digest.update(msgspec.json.encode(msgspec.structs.replace(sampling, n=1)))
        self._key = int.from_bytes(digest.digest(), "little")
        self._eos_token_ids = frozenset(eos_token_ids)
        self._vocabulary = vocabulary

    def __getitem__(self, index: int) -> int:
        """Return the token at a place; the first is at 0."""
        # The finalizer of splitmix64: equal numbers for every process, and a tenth of the time of a digest.
        mixed = (self._key + (index + 1) * _GOLDEN) & _U64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _U64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _U64
        mixed ^= mixed >> 31
        vocabulary = self._vocabulary
        token_id = vocabulary[mixed % len(vocabulary)]
        while token_id in self._eos_token_ids:
            mixed += 1
            token_id = vocabulary[mixed % len(vocabulary)]
        return token_id


def answer_to(request: PreprocessedRequest, vocabulary: range = VOCABULARY) -> Answer:
    """Return the answer to a request, whether it begins with it or goes on with one that began elsewhere."""
    num_prompt = len(request.token_ids) - request.num_resumed_tokens
    prompt = prompt_array(request.token_ids[:num_prompt])
    return Answer(prompt, request.sampling_options, request.eos_token_ids, vocabulary)


def log_prob(token_id: int) -> float:
    """Return the log probability that is reported of a token: made up, and always the same."""
    return -(1 + token_id % 64) / 64
