"""What the workers of one model must have in common: a request may begin at one of them and end at another."""

from __future__ import annotations

from dynamo.llm._model_card import ModelCard


def difference(card: ModelCard, others: ModelCard, whose: str) -> str | None:
    """Say in what a worker's card differs from that of `whose`, with both values; None if in nothing that matters."""
    for what, its, theirs in (
        ("model input", card.model_input.value, others.model_input.value),
        ("model type", str(card.model_type), str(others.model_type)),
        ("context length", card.context_length, others.context_length),
        ("KV cache block size", card.kv_cache_block_size, others.kv_cache_block_size),
        ("end-of-sequence tokens", card.eos_token_ids, others.eos_token_ids),
        *((f"checksum of {name}", card.checksums.get(name), sum) for name, sum in sorted(others.checksums.items())),
        ("set of files", sorted(card.checksums), sorted(others.checksums)),
        ("router", card.router_config or "the frontend's own", others.router_config or "the frontend's own"),
    ):
        if its != theirs:
            return f"its {what} is {its}, and that of {whose} is {theirs}"
    return None
