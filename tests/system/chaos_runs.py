"""Faults in numbers: each run hurts a cluster again and again, and says what its clients saw."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.system.cluster import Cluster, Worker
from tests.system.exact import why_not_exact
from tests.system.programs import POLL_S
from tests.system.streams import Answer

#: What is open when a worker is killed.
STREAMS_PER_KILL = 6
TOKENS_PER_STREAM = 100
#: A kill comes at a random moment of about as long as the streams take.
KILL_WITHIN_S = 0.7
#: Clients that ask one after the other while workers are restarted.
CLIENTS_OF_A_RESTART = 6
#: Clients that leave together.
LEAVERS_PER_ROUND = 25
#: More tokens than are ever read.
ENDLESS_TOKENS = 3000
#: Descriptors that a process may have more than before: a connection that is about to close, a log.
FDS_SLACK = 8


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that so many percent of them do not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


@dataclass
class Outcome:
    """What the clients of a run saw."""

    num_answers: int = 0
    #: Why answers were not exact: lost, duplicated, foreign or missing words, errors, wrong counts.
    wrong: list[str] = field(default_factory=list)
    #: The longest pause of each answer that a fault could have touched.
    pauses_s: list[float] = field(default_factory=list)
    #: Faults that hit a worker which was answering.
    num_hits: int = 0
    leaks: list[str] = field(default_factory=list)

    def take(self, answer: Answer, prompt: str, max_tokens: int) -> None:
        self.num_answers += 1
        if (reason := why_not_exact(answer, prompt, max_tokens)) is not None:
            self.wrong.append(f"{prompt!r}: {reason}")


async def kill_points(cluster: Cluster, count: int, rng: random.Random) -> Outcome:
    """Kill workers at random moments until `count` of them had answers that moved; another one takes each place."""
    outcome = Outcome()
    number = 0
    while outcome.num_hits < count:
        number += 1
        prompts = [f"kill {number} stream {n}" for n in range(STREAMS_PER_KILL)]
        asking = [asyncio.create_task(cluster.ask(prompt, TOKENS_PER_STREAM)) for prompt in prompts]
        moved_before = await cluster.migrations()
        await asyncio.sleep(rng.random() * KILL_WITHIN_S)
        await _kill_one(cluster, rng)
        answers = await asyncio.gather(*asking)
        for prompt, answer in zip(prompts, answers, strict=True):
            outcome.take(answer, prompt, TOKENS_PER_STREAM)
        if await cluster.migrations() > moved_before:  # else the last answer was over before the kill
            outcome.num_hits += 1
            outcome.pauses_s.append(max(answer.longest_pause_s for answer in answers))
        await cluster.add_workers(1)
        await cluster.routable(len(cluster.workers))
    return outcome


async def _kill_one(cluster: Cluster, rng: random.Random) -> None:
    """Kill a worker that answers something, if there is one."""
    counts = await asyncio.gather(*(worker.inflight(cluster.client) for worker in cluster.workers))
    busy = [worker for worker, inflight in zip(cluster.workers, counts, strict=True) if inflight]
    victim = rng.choice(busy or cluster.workers)
    await victim.kill()
    await cluster.remove(victim)


async def freeze(cluster: Cluster) -> Outcome:
    """Freeze a worker that answers; its pause is how long its clients waited for the rest."""
    outcome = Outcome(num_hits=1)
    prompts = [f"freeze stream {n}" for n in range(STREAMS_PER_KILL)]
    tokens = TOKENS_PER_STREAM * 2
    asking = await cluster.begin(prompts, tokens)
    victim = await cluster.busiest()
    await victim.freeze()
    for prompt, answer in zip(prompts, await cluster.finish(asking), strict=True):
        outcome.take(answer, prompt, tokens)
        outcome.pauses_s.append(answer.longest_pause_s)
    await cluster.remove(victim)
    await cluster.add_workers(1)
    return outcome


async def rolling_restart(cluster: Cluster, rounds: int) -> Outcome:
    """Replace every worker, one after the other, `rounds` times, while clients ask without a pause."""
    outcome = Outcome()
    over = asyncio.Event()

    async def one_client(name: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            prompt = f"client {name} question {number}"
            outcome.take(await cluster.ask(prompt, TOKENS_PER_STREAM), prompt, TOKENS_PER_STREAM)

    async with asyncio.TaskGroup() as clients:
        for name in range(CLIENTS_OF_A_RESTART):
            clients.create_task(one_client(name))
        # Each new one is the last of the list: the first is always the oldest.
        for _ in range(rounds * len(cluster.workers)):
            old = cluster.workers[0]
            old.terminate()
            if (status := await old.exit_status()) != 0:
                outcome.wrong.append(f"a worker that was asked to go exited with {status}:\n{old.text}")
            await cluster.remove(old)
            outcome.num_hits += 1
            await cluster.add_workers(1)
        over.set()
    return outcome


async def disconnects(cluster: Cluster, count: int, rng: random.Random) -> Outcome:
    """Let `count` clients leave in the middle; a pause is how long the engine went on for one of them.

    It is measured to the moment when the workers answer nobody of a round any more, so it is never too short.
    """
    outcome = Outcome()
    await cluster.ask("warm up", 5)
    await cluster.idle()
    programs = {"the frontend": cluster.frontend, **{f"worker {n}": w for n, w in enumerate(cluster.workers)}}
    fds = {name: program.num_fds() for name, program in programs.items()}
    while outcome.num_answers < count:
        leavers = min(LEAVERS_PER_ROUND, count - outcome.num_answers)
        left_at = await _all_leave(cluster, leavers, rng)
        await _all_idle(cluster.workers, cluster)
        now = asyncio.get_running_loop().time()
        outcome.pauses_s.extend(now - at for at in left_at)
        outcome.num_answers += leavers
        outcome.num_hits += leavers
    await cluster.idle()
    for name, program in programs.items():
        if (more := program.num_fds() - fds[name]) > FDS_SLACK:
            outcome.leaks.append(f"{name} has {more} more descriptors than before")
    return outcome


async def _all_leave(cluster: Cluster, count: int, rng: random.Random) -> list[float]:
    """Let so many clients begin to read, and leave together; return when each did."""
    reading = asyncio.Semaphore(0)

    async def one(number: int) -> float:
        try:
            await cluster.ask(f"leaver {number}", ENDLESS_TOKENS, on_chunk=lambda _: reading.release())
        except asyncio.CancelledError:
            return asyncio.get_running_loop().time()
        raise AssertionError("the answer ended before its client left")

    leaving = [asyncio.create_task(one(rng.getrandbits(32))) for _ in range(count)]
    for _ in leaving:
        await reading.acquire()
    while await cluster.num_inflight() < count:  # noqa: ASYNC110 - workers tell nobody
        await asyncio.sleep(POLL_S)
    for task in leaving:
        task.cancel()
    return list(await asyncio.gather(*leaving))


async def _all_idle(workers: Sequence[Worker], cluster: Cluster) -> None:
    for worker in workers:
        while await worker.inflight(cluster.client):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
