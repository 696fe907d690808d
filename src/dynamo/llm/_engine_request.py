"""What all engines read of a request before they take it, and say of its tokens at the end."""

from __future__ import annotations

from dynamo._core.errors import InvalidArgument
from dynamo.llm._messages import CompletionUsage, PreprocessedRequest, PromptTokensDetails


def num_prompt_tokens(request: PreprocessedRequest) -> int:
    """Return how many of the request's tokens are the prompt: those after it another worker has generated.

    Raises `InvalidArgument` if they cannot be that many.
    """
    num_tokens, num_resumed = len(request.token_ids), request.num_resumed_tokens
    if not 0 <= num_resumed <= num_tokens:
        raise InvalidArgument(f"num_resumed_tokens={num_resumed} are not among the {num_tokens} tokens of the request")
    return num_tokens - num_resumed


def completion_usage(num_prompt: int, num_answer: int, num_cached: int | None = None) -> CompletionUsage:
    """Return the token counts of a request, of which the cache held `num_cached`; None: that is not known.

    Of a request that began elsewhere the cache may hold some of the answer, too; what is said is of the prompt.
    """
    details = None if num_cached is None else PromptTokensDetails(cached_tokens=min(num_cached, num_prompt))
    return CompletionUsage(num_prompt, num_answer, num_prompt + num_answer, details)
