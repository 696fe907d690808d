"""`scripts/bench`: measure this implementation, alone or beside the published one."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import (
    chat,
    depends,
    follow,
    hash,
    index,
    machine,
    metrics,
    recover,
    replay,
    route,
    rpc,
    serve,
    startup,
    vllm_routing,
)
from benchmarks.children import BenchmarkFailed
from benchmarks.peer import PEER_VERSION, installed_peer
from benchmarks.systems import ours

_BENCHMARKS = {
    "rpc": rpc,
    "http": chat,
    "startup": startup,
    "depends": depends,
    "serve": serve,
    "follow": follow,
    "hash": hash,
    "index": index,
    "route": route,
    "replay": replay,
    "recover": recover,
    "vllm": vllm_routing,
    "metrics": metrics,
}
#: These measure what the published system does not have.
_WITHOUT_PEER = ("depends", "serve", "follow", "route", "replay", "recover", "vllm", "metrics")
_QUICK = {"window_s": 0.2, "runs": 1, "concurrency": [1, 4]}


def main() -> int:
    options = _options()
    benchmark = _BENCHMARKS[options.benchmark]
    systems = [ours(), *([installed_peer()] if options.peer else [])]
    facts = machine.facts() | {system.name: system.version for system in systems}
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    try:
        results = asyncio.run(benchmark.measure(systems, options, _say))
    except BenchmarkFailed as error:
        print(f"{options.benchmark} failed: {error}", file=sys.stderr)
        return 1
    print(results.table(benchmark.COLUMNS, benchmark.RATIO_HEADING))
    if results.remarks:
        print(f"\n{results.remarks}")
    if options.json:
        raw = {"machine": facts, "measurements": [asdict(one) for one in results.measurements]}
        options.json.write_text(json.dumps(raw, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, epilog=_EPILOG)
    parser.add_argument("benchmark", choices=_BENCHMARKS, help=_WHAT)
    parser.add_argument(
        "--peer", action="store_true", help=f"also measure ai-dynamo {PEER_VERSION}, from a venv of its own"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each system, in turn (3)")
    parser.add_argument("--window-s", type=float, metavar="S", help="seconds per cell of the table (2)")
    parser.add_argument("--concurrency", type=int, nargs="+", metavar="C", help="requests that are open at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every run to FILE")
    parser.add_argument("--quick", action="store_true", help="show that it works: one short run, figures mean little")
    options = parser.parse_args()
    if options.peer and options.benchmark in _WITHOUT_PEER:
        parser.error(f"--peer: there is nothing to compare {options.benchmark} with")
    defaults = {"window_s": 2.0, "runs": 3, "concurrency": None} | (_QUICK if options.quick else {})
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


_WHAT = (
    "rpc: unary calls and streams between two Python processes. "
    "http: streamed chat completions through the frontend and one Python worker. "
    "startup: import time, time to the first answer, idle memory. "
    "depends: a call from one service to another, beside a call of a bare client. "
    "serve: how soon `dynamo serve` has a graph of ten services ready, and has it ended after Ctrl-C. "
    "follow: CPU and memory of a client that follows 1,000 instances which join and leave. "
    "hash: block hashes of prompts of 1k, 8k and 128k tokens, in lists and in arrays. "
    "index: which of 64 workers holds which prefix of a million blocks. "
    "route: a decision of the KV router, from the tokens of a prompt to one of 64 workers. "
    "replay: how long requests wait with each routing policy, on a virtual clock. "
    "recover: how soon a KV router is right again when it was killed, and when events were lost. "
    "vllm: two real vLLM workers on this CPU, routed in turn and by their KV caches. "
    "metrics: an increment with labels attached, beside one of prometheus_client."
)
_EPILOG = "Figures are medians with [smallest-largest]; call differences below 1.5x ties on a shared machine."
_started = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.monotonic() - _started:6.1f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
