"""Lose, double and delay KV events on a real event plane, and report how soon an index is right when all is silent."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from dynamo._core.blocks import sequence_hashes
from dynamo._core.event_plane import EventPlane, EventStats, Subscription, open_event_plane
from dynamo.llm import KvPublisher
from dynamo.llm._kv_indexer import KvIndexer
from dynamo.runtime import DistributedRuntime

NUM_WORKERS = 4
BLOCK_SIZE = 16
#: Each worker stores and removes so often, prompts of so many blocks.
CHANGES_PER_S = 100.0
BLOCKS_MAX = 64
PROMPTS_MAX = 32
BUSY_S = 2.0
LATE_S = (0.01, 1.0)
RIGHT_S = 30.0
POLL_S = 0.005
ENDPOINT = "bench.backend.generate"


class LossyPlane:
    """An event plane that loses, doubles and delays what is published, while it is bad."""

    def __init__(self, plane: EventPlane, rng: random.Random) -> None:
        self._plane = plane
        self._rng = rng
        self._late: set[asyncio.Task[None]] = set()
        self.badness = 0.0

    @property
    def publisher_id(self) -> int:
        return self._plane.publisher_id

    @property
    def stats(self) -> EventStats:
        return self._plane.stats

    async def publish(self, subject: str, payload: bytes) -> None:
        if self._rng.random() < self.badness:
            return
        if self._rng.random() < self.badness:
            self._publish_late(subject, payload)
            if self._rng.random() < 0.5:
                return
        await self._plane.publish(subject, payload)

    def subscribe(self, subject: str) -> Subscription:
        return self._plane.subscribe(subject)

    async def close(self) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        await self._plane.close()

    def _publish_late(self, subject: str, payload: bytes) -> None:
        async def publish() -> None:
            await asyncio.sleep(self._rng.uniform(*LATE_S))
            await self._plane.publish(subject, payload)

        task = asyncio.create_task(publish())
        self._late.add(task)
        task.add_done_callback(self._late.discard)


class Worker:
    """A publisher, and what its cache holds."""

    def __init__(self, publisher: KvPublisher, rng: random.Random) -> None:
        self._publisher = publisher
        self._rng = rng
        self._prompts: list[list[int]] = []
        self.worker = publisher.worker

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + BUSY_S
        while loop.time() < until_s:
            if len(self._prompts) >= PROMPTS_MAX or (self._prompts and self._rng.random() < 0.3):
                gone = self._prompts.pop(self._rng.randrange(len(self._prompts)))
                self._publisher.removed(list(sequence_hashes(gone)))
            else:
                tokens = [self._rng.getrandbits(64) for _ in range(self._rng.randint(1, BLOCKS_MAX))]
                self._prompts.append(tokens)
                self._publisher.stored(None, list(sequence_hashes(tokens)), tokens)
            await asyncio.sleep(self._rng.expovariate(CHANGES_PER_S))

    def is_known_to(self, indexer: KvIndexer) -> bool:
        """Whether an index has all that it holds, and no more."""
        num_blocks = sum(map(len, self._prompts))
        return indexer.workers().get(self.worker, 0) == num_blocks and all(
            indexer.find(prompt).get(self.worker) == len(prompt) for prompt in self._prompts
        )


async def rounds(loss: float, count: int, seed: int) -> tuple[list[float], int]:
    """Return how long it took the index to be right, in each round, and how often it had to ask."""
    rng = random.Random(f"{seed} {loss}")
    took_s: list[float] = []
    async with AsyncExitStack() as stack:
        planes: list[LossyPlane] = []
        workers: list[Worker] = []
        for _ in range(NUM_WORKERS):
            runtime = await _join(stack, planes, rng)
            publisher = await stack.enter_async_context(
                KvPublisher(runtime.endpoint(ENDPOINT), kv_block_size=BLOCK_SIZE)
            )
            workers.append(Worker(publisher, rng))
        runtime = await _join(stack, planes, rng)
        indexer = await stack.enter_async_context(
            KvIndexer(runtime.namespace("bench").component("backend"), BLOCK_SIZE)
        )
        for _ in range(count):
            took_s.append(await _round(loss, planes, workers, indexer))
        return took_s, indexer.stats().num_answers


async def _round(loss: float, planes: Sequence[LossyPlane], workers: Sequence[Worker], indexer: KvIndexer) -> float:
    for plane in planes:
        plane.badness = loss
    await asyncio.gather(*(worker.work() for worker in workers))
    silent_s = time.perf_counter()
    for plane in planes:
        plane.badness = 0.0
    async with asyncio.timeout(RIGHT_S):
        while True:
            if all(worker.is_known_to(indexer) for worker in workers):
                return time.perf_counter() - silent_s
            await asyncio.sleep(POLL_S)


async def _join(stack: AsyncExitStack, planes: list[LossyPlane], rng: random.Random) -> DistributedRuntime:
    """A runtime with an event plane of its own, which is as real as in a process of its own."""
    finder = await stack.enter_async_context(DistributedRuntime())
    plane = LossyPlane(await open_event_plane("zmq:", finder.discovery), rng)
    stack.push_async_callback(plane.close)
    planes.append(plane)
    return await stack.enter_async_context(DistributedRuntime(discovery=finder.discovery, event_plane=plane))


async def main(options: argparse.Namespace) -> None:
    report = {}
    for loss in options.losses:
        took_s, num_answers = await rounds(loss, options.rounds, options.seed)
        report[f"events lost: {loss:.0%}"] = {
            "after_s": statistics.median(took_s),
            "longest_s": max(took_s),
            "num_answers": num_answers,
        }
    options.report.write_text(json.dumps(report))


if __name__ == "__main__":
    os.environ.pop("DYN_EVENT_PLANE", None)
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses", type=float, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True)
    asyncio.run(main(parser.parse_args()))
