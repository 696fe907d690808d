"""Fill an index, ask it, take things away, and report how long that took. Runs under either system's Python."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import time
from array import array
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import percentile
from benchmarks.index_systems import Index, Ours, OursFromJson, Peer
from benchmarks.index_workload import Conversation, conversations, random_hashes

_QUERY_BLOCKS = (64, 512, 4096)
_QUERIES = 2000
_REMOVED_BLOCKS_MAX = 100_000


def fill(index: Index, workload: str, num_blocks: int) -> dict[str, float]:
    """Store all conversations; only what the index itself does is timed."""
    num_events = {"new": 0, "again": 0}
    took_s = {"new": 0.0, "again": 0.0}
    gc.collect()
    before_mb, unique = machine.rss_mb(os.getpid()), 0
    for conversation in conversations(workload, num_blocks):
        unique += len(conversation.names)
        events = [index.event(*event) for event in conversation.events()]
        for turn, worker in enumerate(conversation.workers):
            kind = "again" if turn else "new"
            began_s = time.perf_counter()
            for event in events:
                index.store(worker, event)
            took_s[kind] += time.perf_counter() - began_s
            num_events[kind] += len(events)
        del events, conversation
    gc.collect()
    return {
        "stored events/s": sum(num_events.values()) / sum(took_s.values()),
        "stored events/s, new blocks": num_events["new"] / took_s["new"],
        "memory, B/unique block": (machine.rss_mb(os.getpid()) - before_mb) * 1e6 / unique,
    }


class Questions:
    """Finds prompts that are there, prompts that end elsewhere, and prompts that nobody has."""

    def __init__(self, index: Index, held: list[Conversation]) -> None:
        self._index = index
        self._held = held
        self._rng = random.Random(11)

    def ask(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for length in _QUERY_BLOCKS:
            figures |= self._timed(f"find {length} blocks", length)
        figures |= self._timed("find 512 blocks, 256 are there", 256, beyond=256)
        return figures | self._timed("find 512 blocks, a miss", 0, beyond=512)

    def _timed(self, what: str, length: int, beyond: int = 0) -> dict[str, float]:
        long_enough = [one for one in self._held if len(one.tokens) >= length]
        times_s = []
        for _ in range(_QUERIES):
            conversation = self._rng.choice(long_enough)
            prompt = self._index.query(conversation.tokens[:length] + random_hashes(self._rng, beyond))
            began_s = time.perf_counter()
            found = self._index.find(prompt)
            times_s.append(time.perf_counter() - began_s)
            if self._index.holders(found) != (dict.fromkeys(conversation.workers, length) if length else {}):
                raise RuntimeError(f"{what}: wrong holders or depths")
        return {f"{what}, p{percent} us": percentile(times_s, percent) * 1e6 for percent in (50, 99)}


def take_away(index: Index, held: list[Conversation]) -> dict[str, float]:
    """Remove blocks of one worker, the last ones first, and then the worker that has most blocks."""
    num_blocks: dict[int, int] = {}
    for conversation in held:
        for worker in conversation.workers:
            num_blocks[worker] = num_blocks.get(worker, 0) + len(conversation.names)
    *_, some, most = sorted(num_blocks, key=lambda worker: num_blocks[worker])
    removed, took_s = 0, 0.0
    for conversation in held:
        for _, names, _ in reversed([*conversation.events()] if some in conversation.workers else []):
            if removed < _REMOVED_BLOCKS_MAX:
                removal = index.removal(array("Q", reversed(names)))
                began_s = time.perf_counter()
                index.remove(some, removal)
                took_s += time.perf_counter() - began_s
                removed += len(names)
    pauses_s = index.remove_worker(most)
    return {
        "removed blocks/s": removed / took_s,
        "removing a worker: its blocks": num_blocks[most],
        "removing a worker: longest pause, CPU ms": max(pauses_s) * 1e3,
        "removing a worker: in all, CPU ms": sum(pauses_s) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", choices=("ours", "peer"), required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    index: Index = Ours() if options.system == "ours" else Peer()
    figures = fill(index, options.workload, options.blocks)
    held = list(conversations(options.workload, options.blocks))
    if options.workload != "decode":
        figures |= Questions(index, held).ask()
    figures |= take_away(index, held)
    from_json = figures
    if options.system == "ours":
        del index, held
        from_json = fill(OursFromJson(), options.workload, options.blocks)
    figures["stored events/s, from JSON"] = from_json["stored events/s"]
    options.report.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
