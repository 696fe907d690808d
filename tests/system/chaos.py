"""`scripts/chaos`: the promises of docs/fault-tolerance.md as figures, each with the value that it must reach."""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.system.chaos_overload import TIMES, overload
from tests.system.chaos_runs import Outcome, disconnects, freeze, kill_points, percentile, rolling_restart
from tests.system.cluster import Cluster, cluster
from tests.tiny_model import tiny_model_path

NAMES = ["kill", "freeze", "restart", "disconnect", "overload"]
#: Of every run but the overload, which starts workers of its own.
WORKERS = 3
PAUSE_P99_S_MAX = 1.0
FREEZE_S_MAX = 8.0
SLOT_P99_S_MAX = 1.0
REFUSAL_P99_S_MAX = 0.02
GOODPUT_LOST_PERCENT_MAX = 10
AMPLIFICATION_MAX = 1.1
WRONG_SHOWN_MAX = 5


@dataclass(frozen=True)
class Figure:
    """One figure, and whether it is what it must be."""

    name: str
    value: float
    limit: float
    unit: str = ""

    @property
    def reached(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "ok  " if self.reached else "MISS"
        value, limit = (
            f"{number:.3f} s" if self.unit == "s" else f"{number:.4g}{self.unit}" for number in (self.value, self.limit)
        )
        return f"{verdict} {self.name}: {value} (at most {limit})"


Run = Callable[[Cluster], Awaitable[tuple[Outcome, list[Figure]]]]


def runs(options: argparse.Namespace, rng: random.Random) -> dict[str, Run]:
    """The runs by name, each with its figures."""

    async def kills(made: Cluster) -> tuple[Outcome, list[Figure]]:
        outcome = await kill_points(made, options.kill_points, rng)
        pause = Figure("pause of a continued answer, p99", percentile(outcome.pauses_s, 99), PAUSE_P99_S_MAX, "s")
        return outcome, [pause]

    async def frozen(made: Cluster) -> tuple[Outcome, list[Figure]]:
        outcome = await freeze(made)
        return outcome, [Figure("SIGSTOP, longest pause", max(outcome.pauses_s), FREEZE_S_MAX, "s")]

    async def restarts(made: Cluster) -> tuple[Outcome, list[Figure]]:
        return await rolling_restart(made, options.restarts), []

    async def leavers(made: Cluster) -> tuple[Outcome, list[Figure]]:
        outcome = await disconnects(made, options.disconnects, rng)
        slots = Figure(
            "engine slot free after a disconnect, p99", percentile(outcome.pauses_s, 99), SLOT_P99_S_MAX, "s"
        )
        return outcome, [slots, Figure("processes that leak descriptors", len(outcome.leaks), 0)]

    async def overloaded(made: Cluster) -> tuple[Outcome, list[Figure]]:
        seen = await overload(made, options.overload_s, rng)
        refusal_s = percentile(seen.refusals_s, 99)
        lost_percent = 100 * (1 - seen.goodput_per_s / seen.peak_per_s)
        return Outcome(num_answers=seen.num_answers, wrong=seen.wrong, num_hits=len(seen.refusals_s)), [
            Figure(f"{TIMES} times as many requests as can be served, refusal, p99", refusal_s, REFUSAL_P99_S_MAX, "s"),
            Figure(
                f"answers lost of the {seen.peak_per_s:.0f} that a second can have",
                lost_percent,
                GOODPUT_LOST_PERCENT_MAX,
                " %",
            ),
            Figure("requests at workers for each one of a client", seen.amplification, AMPLIFICATION_MAX),
        ]

    return dict(zip(NAMES, (kills, frozen, restarts, leavers, overloaded), strict=True))


async def measure(name: str, run: Run, model_path: Path) -> list[Figure]:
    """Do one run in a cluster of its own; print and return its figures."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        async with cluster(Path(directory), model_path, workers=0 if name == "overload" else WORKERS) as made:
            outcome, figures = await run(made)
    wrong = Figure(f"answers of {outcome.num_answers} that were not exact", len(outcome.wrong), 0)
    figures = [wrong, *figures]
    print(f"{name}: {outcome.num_hits} faults that took effect, {outcome.num_answers} answers")
    for figure in figures:
        print(f"  {figure}", flush=True)
    for reason in [*outcome.wrong, *outcome.leaks][:WRONG_SHOWN_MAX]:
        print(f"    {reason}")
    return figures


async def _all(options: argparse.Namespace) -> bool:
    print(f"seed={options.seed}", flush=True)
    model_path = tiny_model_path()
    figures: list[Figure] = []
    for name, run in runs(options, random.Random(options.seed)).items():
        if name in options.only:
            figures += await measure(name, run, model_path)
    return all(figure.reached for figure in figures)


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; the status is 1 if a figure is missed."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Hurt real clusters on this host in random ways, compare every answer with what it must be, "
        "and print the figures. The exit status is 1 if one of them is missed.",
    )
    parser.add_argument("--kill-points", type=int, default=200, metavar="N", help="workers to kill (default: 200)")
    parser.add_argument("--disconnects", type=int, default=1000, metavar="N", help="clients that leave (default: 1000)")
    parser.add_argument("--restarts", type=int, default=5, metavar="N", help="restarts of all workers (default: 5)")
    parser.add_argument("--overload-s", type=float, default=15, metavar="S", help="its length (default: 15)")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="the runs to do (default: all)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of every random choice")
    return 0 if asyncio.run(_all(parser.parse_args(arguments))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
