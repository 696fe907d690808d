"""Ask a KV router for the workers of prompts, and report how long a decision takes, from tokens to instance."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import percentile
from dynamo._core.blocks import block_hashes, sequence_hashes
from dynamo._core.context import Context
from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._kv_router.router import KvRouter
from dynamo.llm._routing import Asked
from dynamo.runtime import DistributedRuntime

BLOCK_SIZE = 16
NUM_WORKERS = 64
NUM_HOLDERS = 16
PROMPT_TOKENS = 8192
#: Requests that run at the same time.
NUM_RUNNING = 512
_VOCABULARY = 128_000


class Workers:
    """Workers that are there, with large numbers like those of leases."""

    def __init__(self, rng: random.Random) -> None:
        self.ids = sorted(rng.getrandbits(62) for _ in range(NUM_WORKERS))

    def instance_ids(self) -> list[int]:
        return self.ids

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        return {}


class Probe:
    """A router with an index of many prompts, of each of which some workers hold the beginning."""

    def __init__(self, num_blocks: int) -> None:
        self.rng = random.Random(7)
        self.workers = Workers(self.rng)
        self.index = PrefixIndex()
        self.prompts = [self.prompt() for _ in range(num_blocks * BLOCK_SIZE // PROMPT_TOKENS)]
        for prompt in self.prompts:
            self._cache(prompt)

    def prompt(self) -> array[int]:
        return array("I", [self.rng.randrange(_VOCABULARY) for _ in range(PROMPT_TOKENS)])

    def _cache(self, prompt: array[int]) -> None:
        tokens = block_hashes(prompt, BLOCK_SIZE)
        names = sequence_hashes(tokens)
        for id in self.rng.sample(self.workers.ids, NUM_HOLDERS):
            depth = self.rng.randint(1, len(tokens))
            self.index.store(WorkerKey(id), None, names[:depth], tokens[:depth])

    async def measure(self, router: KvRouter, prompt: Callable[[], Sequence[int]], window_s: float) -> dict[str, float]:
        """Decide again and again, with many requests running; returns the median and the slowest hundredth."""
        running: deque[KvRoute] = deque()
        decide_s: list[float] = []
        end_s: list[float] = []
        ids = self.workers.ids
        ends = time.perf_counter() + window_s
        while time.perf_counter() < ends or len(running) < NUM_RUNNING:
            asked = Asked(request=None, context=Context(), token_ids=prompt())
            began_s = time.thread_time()
            route = await router.place(asked)
            route.choose(ids)
            decide_s.append(time.thread_time() - began_s)
            running.append(route)
            if len(running) > NUM_RUNNING:
                began_s = time.thread_time()
                running[NUM_RUNNING // 2].note_answer()
                running.popleft().close()
                end_s.append(time.thread_time() - began_s)
        for route in running:
            route.close()
        return {
            "p50_us": percentile(decide_s, 50) * 1e6,
            "p99_us": percentile(decide_s, 99) * 1e6,
            "end_us": percentile(end_s or [0.0], 50) * 1e6,
        }


async def main(num_blocks: int, window_s: float) -> dict[str, dict[str, float]]:
    probe = Probe(num_blocks)
    rng = probe.rng
    unheard = [probe.prompt() for _ in range(NUM_RUNNING)]
    found: dict[str, dict[str, float]] = {}
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("bench.workers.generate")
        async with KvRouter(endpoint, BLOCK_SIZE, indexer=probe.index, workers=probe.workers) as router:
            workloads: dict[str, Callable[[], Sequence[int]]] = {
                "8k tokens, list": lambda: list(rng.choice(probe.prompts)),
                "8k tokens, array": lambda: rng.choice(probe.prompts),
                "8k tokens, nobody has them": lambda: list(rng.choice(unheard)),
                "1k tokens, list": lambda: list(rng.choice(probe.prompts)[:1024]),
            }
            for name, prompt in workloads.items():
                found[name] = await probe.measure(router, prompt, window_s)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--window-s", type=float, required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    options.report.write_text(json.dumps(asyncio.run(main(options.blocks, options.window_s))))
