"""Report how long it takes to chain the hashes of a prompt's blocks, and to hash tokens as they are generated."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.hash_probe import BLOCK_SIZE
from dynamo._core.blocks import BlockHasher, block_hashes, sequence_hashes

NUM_BLOCKS = 512
_GENERATED = 1024


def median_s(call: Callable[[], object], window_s: float) -> float:
    """Return the median CPU time of a call."""
    times_s = []
    ends = time.perf_counter() + window_s
    while time.perf_counter() < ends:
        began_s = time.thread_time()
        call()
        times_s.append(time.thread_time() - began_s)
    return statistics.median(times_s)


def generate() -> None:
    """Hash the blocks of a sequence to which one token is appended at a time."""
    hasher = BlockHasher(BLOCK_SIZE)
    for token_id in range(_GENERATED):
        hasher.extend((token_id,))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--window-s", type=float, required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    hashes = block_hashes(range(NUM_BLOCKS * BLOCK_SIZE), BLOCK_SIZE)
    chain_s = median_s(lambda: sequence_hashes(hashes), options.window_s)
    token_s = median_s(generate, options.window_s) / _GENERATED
    found = {
        f"chain {NUM_BLOCKS} blocks": {"mtok_per_s": NUM_BLOCKS * BLOCK_SIZE / chain_s / 1e6, "call_us": chain_s * 1e6},
        "append 1 token": {"mtok_per_s": 1 / token_s / 1e6, "call_us": token_s * 1e6},
    }
    options.report.write_text(json.dumps(found))
