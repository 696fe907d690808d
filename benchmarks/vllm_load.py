"""Conversations with a completions endpoint: each turn sends all that was said before, and waits for the answer."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.children import BenchmarkFailed

NUM_ANSWER_TOKENS = 16
#: A person reads the answer meanwhile, and what the engine tells of its blocks arrives.
THINK_S = 1.0
_TIMEOUT_S = 120.0
_EXPLAIN = ": dynamo-explain "
#: Ids that are ordinary tokens of the model.
_VOCABULARY = range(100, 2000)


@dataclass(frozen=True)
class Turn:
    """One request of a conversation; the first has the number 0."""

    number: int
    num_tokens: int
    num_cached: int
    #: What the router expected to be cached where it sent the request.
    num_expected: int
    ttft_s: float


def converse(url: str, num: int, num_turns: int, num_system_tokens: int, num_user_tokens: int) -> list[Turn]:
    """Hold so many conversations at a time; return all their turns."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=_TIMEOUT_S) as found:
        model = json.load(found)["data"][0]["id"]
    rng = random.Random()

    def one(seed: int) -> list[Turn]:
        return list(_conversation(url, model, random.Random(seed), num_turns, num_system_tokens, num_user_tokens))

    with ThreadPoolExecutor(num) as threads:
        conversations = list(threads.map(one, [rng.getrandbits(64) for _ in range(num)]))
    return [turn for turns in conversations for turn in turns]


def _conversation(
    url: str, model: str, rng: random.Random, num_turns: int, num_system_tokens: int, num_user_tokens: int
) -> Iterator[Turn]:
    said = _tokens(rng, num_system_tokens)
    time.sleep(rng.uniform(0, THINK_S))
    for number in range(num_turns):
        said += _tokens(rng, num_user_tokens)
        turn = _ask(url, model, said, number)
        yield turn
        # What the model has said is not known in tokens; what it is made of makes no difference to routing.
        said += _tokens(rng, NUM_ANSWER_TOKENS)
        time.sleep(rng.uniform(THINK_S / 2, 2 * THINK_S))


def _tokens(rng: random.Random, number: int) -> list[int]:
    return rng.choices(_VOCABULARY, k=number)


def _ask(url: str, model: str, token_ids: list[int], number: int) -> Turn:
    body = {
        "model": model, "prompt": token_ids, "max_tokens": NUM_ANSWER_TOKENS, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    headers = {"Content-Type": "application/json", "x-dynamo-explain": "1"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    ttft_s = 0.0
    decision: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as lines:
        for line in map(bytes.decode, lines):
            if line.startswith(_EXPLAIN):
                [decision] = json.loads(line.removeprefix(_EXPLAIN))["decisions"]
            elif line.startswith("data: {"):
                ttft_s = ttft_s or time.monotonic() - began
                usage = json.loads(line.removeprefix("data: ")).get("usage") or usage
    if (usage.get("prompt_tokens"), usage.get("completion_tokens")) != (len(token_ids), NUM_ANSWER_TOKENS):
        raise BenchmarkFailed(f"a request of {len(token_ids)} tokens ended with the usage {usage}")
    num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Turn(number, len(token_ids), num_cached, decision.get("predicted_cached_tokens", 0), ttft_s)
