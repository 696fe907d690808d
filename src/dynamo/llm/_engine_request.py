"""What engines read of a request before they take it."""

from __future__ import annotations

from dynamo._core.errors import InvalidArgument
from dynamo.llm._messages import PreprocessedRequest


def num_prompt_tokens(request: PreprocessedRequest) -> int:
    """Return how many of the request's tokens are the prompt: those after it another worker has generated.

    Raises `InvalidArgument` if they cannot be that many.
    """
    num_tokens, num_resumed = len(request.token_ids), request.num_resumed_tokens
    if not 0 <= num_resumed <= num_tokens:
        raise InvalidArgument(f"num_resumed_tokens={num_resumed} are not among the {num_tokens} tokens of the request")
    return num_tokens - num_resumed
