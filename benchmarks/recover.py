"""recover: how soon a KV router is right again when it was killed, and when it has missed events.

`frontend killed`: a frontend with the KV router and four simulated workers, all processes of their own, and requests
that have their beginnings in common. Each worker has room for a third of these beginnings, so who sends requests just
anywhere finds little. The frontend is killed (SIGKILL), another one is started at once, and the time runs from the
kill: to the first answer, and to the end of the first second with 90 % of the hit rate of before, as engines report it.

`events lost`: workers whose caches change, and an index that follows them over the event plane that is the default.
So large a share of what is published is lost, as much comes twice, and as much late. Then all falls silent, and the
time runs to the moment in which the index holds what every worker holds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence

from benchmarks.chat import tiny_model
from benchmarks.chat_request import ENDPOINT, MODEL_NAME
from benchmarks.children import BenchmarkFailed, Child, Stage, stage
from benchmarks.recover_load import NUM_BEGINNINGS, NUM_BLOCKS, Load
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

COLUMNS = (Column("after_s", "after s"), Column("longest_s", "at the longest"))
RATIO_HEADING = "ours/this"
NUM_WORKERS = 4
BLOCK_SIZE = 16
#: Of the beginnings of all prompts, what one worker has room for.
ROOM = 1 / 3
SHARE = 0.9
LOSSES = (0.1, 0.3, 0.5)
_QUICK_LOSSES = (0.3,)
_ROUNDS, _QUICK_ROUNDS = 5, 2
#: How long requests run before the hit rate is taken, over which time it is, and how long it has to come back.
_PHASES_S, _QUICK_PHASES_S = (10.0, 5.0, 15.0), (3.0, 3.0, 12.0)
_READY_S = 60.0
_ROUND_S = 60.0


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Measure both `options.runs` times."""
    model = tiny_model(say)
    results = Results(remarks="Hit rates by seconds after the kill, and before it:")
    losses = _QUICK_LOSSES if options.quick else LOSSES
    phases_s = _QUICK_PHASES_S if options.quick else _PHASES_S
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    for run in range(options.runs):
        for system in systems:
            say(f"run {run + 1} of {options.runs}: a frontend is killed")
            async with stage(system) as processes:
                killed, told = await _kill(processes, str(model), run, *phases_s)
            say(told)
            results.remarks += f"\n{told}"
            say(f"run {run + 1} of {options.runs}: events are lost")
            async with stage(system) as processes:
                lost: dict[str, dict[str, float]] = await processes.measure(
                    "benchmarks.recover_events", "--rounds", str(rounds), "--seed", str(run),
                    "--losses", *map(str, losses), deadline_s=_READY_S + len(losses) * rounds * _ROUND_S,
                )  # fmt: skip
            for workload, figures in {**killed, **lost}.items():
                results.measurements.append(Measurement(system.name, run, workload, 1, figures))
    return results


async def _kill(
    processes: Stage, model: str, seed: int, settle_s: float, before_s: float, after_s: float
) -> tuple[dict[str, dict[str, float]], str]:
    """Return the figures, and a line with the hit rates."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    for _ in range(NUM_WORKERS):
        await processes.start(
            "dynamo.mocker", "--model-path", model, "--model-name", MODEL_NAME, "--endpoint", f"dyn://{ENDPOINT}",
            "--block-size", str(BLOCK_SIZE), "--num-gpu-blocks", str(int(NUM_BEGINNINGS * NUM_BLOCKS * ROOM)),
        )  # fmt: skip
    frontend = await _frontend(processes, port)
    load = Load(port, BLOCK_SIZE, random.Random(seed))
    await load.wait_until_served(NUM_WORKERS, _READY_S)
    async with load.running():
        await asyncio.sleep(settle_s + before_s)
        killed_s = time.monotonic()
        before = load.hit_rate(killed_s - before_s, killed_s)
        os.killpg(frontend.pid, signal.SIGKILL)
        await _frontend(processes, port)
        await asyncio.sleep(after_s)
    first_s = load.first_after(killed_s)
    recovered_s = load.recovered_after(killed_s, SHARE * before)
    if first_s is None or recovered_s is None:
        raise BenchmarkFailed(f"the hit rate was {before:.0%}, and did not come back within {after_s:.0f} s")
    figures = {
        "frontend killed: first answer": {"after_s": first_s, "longest_s": first_s},
        "frontend killed: 90 % of the hit rate": {"after_s": recovered_s, "longest_s": recovered_s},
    }
    return figures, f"{load.told(killed_s, int(after_s))}, before {before:.0%}"


async def _frontend(processes: Stage, port: int) -> Child:
    return await processes.start(
        "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port), "--router-mode", "kv"
    )
