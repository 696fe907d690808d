"""Holds conversations, some at a time, and says how much of them the servers had cached: `python talk.py [URL]`."""

from __future__ import annotations

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
NUM_CONVERSATIONS = 9
NUM_AT_ONCE = 3
NUM_TURNS = 5


def converse(number: int) -> tuple[int, int]:
    """Return how many words were sent, and how many of them were in the cache."""
    messages, sent, cached = [{"role": "system", "content": f"conversation {number}: " + "be kind " * 100}], 0, 0
    for turn in range(NUM_TURNS):
        messages.append({"role": "user", "content": f"and {turn}? " + "tell me more " * 20})
        body = json.dumps({"model": "small", "messages": messages}).encode()
        request = urllib.request.Request(f"{URL}/v1/chat/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.load(answer)
        messages.append(said["choices"][0]["message"])
        sent += said["usage"]["prompt_tokens"]
        cached += said["usage"]["prompt_tokens_details"]["cached_tokens"]
    return sent, cached


with ThreadPoolExecutor(NUM_AT_ONCE) as threads:
    counts = list(threads.map(converse, range(NUM_CONVERSATIONS)))
print(f"{100 * sum(cached for _, cached in counts) // sum(sent for sent, _ in counts)} % of the words were cached")
