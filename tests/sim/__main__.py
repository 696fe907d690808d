"""The command `scripts/sim`: many seeds, or one of them in full."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.sim.simulate import Result, simulate

TAIL_LINES = 40
CHUNK = 16
PROGRESS_S = 5.0


def main(arguments: list[str]) -> int:
    """Return 1 if a run was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many runs (default 200)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--seed", type=int, help="run this seed only, twice, and compare")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first run that is wrong")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: print everything that happens")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed, verbose=options.verbose)
    return _run_all(range(options.first, options.first + options.seeds), options.jobs, keep_going=options.keep_going)


def _replay(seed: int, *, verbose: bool) -> int:
    simulate(seed)  # what is learned once is not part of the run
    result = simulate(seed, echo=verbose)
    again = simulate(seed)
    print(f"seed={seed} trace={result.digest} turns={result.num_turns} {_told(result)}")
    if again.digest != result.digest:
        print(f"a second run of the seed has the trace {again.digest}: something in it is left to chance")
        return 1
    if result.wrongs:
        _tell_failure(result, tail=not verbose)
    return 1 if result.wrongs else 0


def _run_all(seeds: range, jobs: int, *, keep_going: bool) -> int:
    started_at = told_at = time.monotonic()
    failed: list[int] = []
    outcomes: Counter[str] = Counter()
    num_runs, virtual_s = 0, 0.0
    for result in _results(seeds, jobs):
        num_runs += 1
        virtual_s += result.virtual_s
        outcomes.update(result.outcomes)
        if result.wrongs:
            failed.append(result.seed)
            _tell_failure(result, tail=True)
            if not keep_going:
                break
        if time.monotonic() - told_at > PROGRESS_S:
            told_at = time.monotonic()
            print(f"{num_runs} of {len(seeds)} seeds, {len(failed)} wrong, {told_at - started_at:.0f} s", flush=True)
    took_s = time.monotonic() - started_at
    print(f"{num_runs} seeds, {virtual_s / 3600:.1f} simulated hours in {took_s:.0f} s; requests: {dict(outcomes)}")
    print(f"{len(failed)} wrong" + (f": {failed[:50]}" if failed else ""))
    return 1 if failed else 0


def _results(seeds: range, jobs: int) -> Iterator[Result]:
    if jobs <= 1:
        yield from map(simulate, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(simulate, seeds, CHUNK)


def _tell_failure(result: Result, *, tail: bool) -> None:
    print(f"seed={result.seed} commit={_commit()}")
    print(_lines("  wrong: ", result.wrongs))
    if tail:
        print(_lines("  ", result.tail[-TAIL_LINES:]))
        print(f"replay: scripts/sim --seed {result.seed} -v", flush=True)


def _lines(before: str, lines: Iterable[str]) -> str:
    return "\n".join(before + line for line in lines)


def _told(result: Result) -> str:
    return f"requests={result.outcomes} wrong={len(result.wrongs)}"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
