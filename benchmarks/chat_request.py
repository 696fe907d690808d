"""What the http benchmark asks and expects, agreed between its worker and its load generator."""

from __future__ import annotations

import json
from pathlib import Path

ENDPOINT = "bench.backend.generate"
MODEL_NAME = "bench"
TOKENS = 128


def words(model: Path) -> dict[str, int]:
    """Return the model's tokens that are plain words, with their ids: their text is known without a decoder."""
    vocabulary: dict[str, int] = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    found = {word: i for word, i in vocabulary.items() if word.isascii() and word.isalpha() and len(word) > 1}
    if len(found) < TOKENS:
        raise RuntimeError(f"{model} has {len(found)} tokens that are plain words; the benchmark needs {TOKENS}")
    return dict(list(found.items())[:TOKENS])


def chat_request(host: str) -> bytes:
    """Return one streaming chat completion request, head and body."""
    body = json.dumps(
        {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": "Tell me about rivers."}],
            "max_tokens": TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
