"""Asks the same prompts twice, and says how much of each was in the cache: `python ask.py [URL]`.

What is expected is what the router knew of the worker that it chose; what was cached is what the engine reports.
"""

from __future__ import annotations

import json
import random
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
NUM_PROMPTS = 5
NUM_TOKENS = 700
#: Engines tell of blocks when they have computed them, and it takes a moment.
EVENTS_S = 2.0
EXPLAIN = ": dynamo-explain "


@dataclass
class Answer:
    worker: str
    num_expected: int
    num_cached: int
    ttft_s: float


def ask(model: str, token_ids: list[int]) -> Answer:
    body = {
        "model": model, "prompt": token_ids, "max_tokens": 4, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    headers = {"Content-Type": "application/json", "x-dynamo-explain": "1"}
    began = time.monotonic()
    ttft_s = 0.0
    decision: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    request = urllib.request.Request(f"{URL}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as lines:
        for line in map(bytes.decode, lines):
            if line.startswith(EXPLAIN):
                [decision] = json.loads(line.removeprefix(EXPLAIN))["decisions"]
            elif line.startswith("data: {"):
                ttft_s = ttft_s or time.monotonic() - began
                usage = json.loads(line.removeprefix("data: "))["usage"] or usage
    num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    # In turn, nothing is expected.
    return Answer(f"{decision['worker_id']:x}", decision.get("predicted_cached_tokens", 0), num_cached, ttft_s)


def main() -> None:
    with urllib.request.urlopen(f"{URL}/v1/models", timeout=60) as found:
        model = json.load(found)["data"][0]["id"]
    rng = random.Random()
    prompts = [[rng.randrange(100, 2000) for _ in range(NUM_TOKENS)] for _ in range(NUM_PROMPTS)]
    for pause_s, heading in ((0.0, "prompts that nobody has seen:"), (EVENTS_S, "the same prompts again:")):
        time.sleep(pause_s)
        print(heading)
        for number, token_ids in enumerate(prompts, start=1):
            answer = ask(model, token_ids)
            print(
                f"  {number}: {answer.num_cached} of {NUM_TOKENS} tokens cached, {answer.num_expected} expected, "
                f"first token after {1000 * answer.ttft_s:.0f} ms from {answer.worker}"
            )


main()
