"""Report how fast the blocks of a prompt are hashed. Runs unchanged under either system."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import zlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from dynamo.llm import compute_block_hash_for_seq

BLOCK_SIZE = 16
PROMPTS = {"1k": 1024, "8k": 8192, "128k": 131072}
FORMS: dict[str, Callable[[list[int]], Sequence[int]]] = {"list": list, "array": lambda ids: array("I", ids)}
_VOCABULARY = 128_000


def measure(token_ids: Sequence[int], window_s: float) -> tuple[float, int]:
    """Hash again and again; return the median CPU time of a call, and a checksum of its result."""
    hashes = compute_block_hash_for_seq(token_ids, BLOCK_SIZE)
    times_s = []
    ends = time.perf_counter() + window_s
    while time.perf_counter() < ends:
        began_s = time.thread_time()
        compute_block_hash_for_seq(token_ids, BLOCK_SIZE)
        times_s.append(time.thread_time() - began_s)
    return statistics.median(times_s), zlib.crc32(array("Q", hashes).tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--window-s", type=float, required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(7)
    found: dict[str, dict[str, float]] = {}
    for prompt, length in PROMPTS.items():
        token_ids = [rng.randrange(_VOCABULARY) for _ in range(length)]
        for form, make in FORMS.items():
            call_s, checksum = measure(make(token_ids), options.window_s)
            found[f"{prompt} tokens, {form}"] = {
                "mtok_per_s": length / call_s / 1e6, "call_us": call_s * 1e6, "checksum": checksum
            }  # fmt: skip
    options.report.write_text(json.dumps(found))
