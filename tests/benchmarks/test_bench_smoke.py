"""The benchmarks run: no speed is asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc"),
    pytest.mark.timeout(180),
]


def bench(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=150
    )


@pytest.mark.parametrize(
    ("benchmark", "row"),
    [
        ("rpc", "with turns"),
        ("http", "chat stream"),
        ("startup", "worker joins: serve to first answer, ms"),
        ("serve", "chain of 10"),
        ("follow", "file"),
        ("hash", "8k tokens, list"),
        ("index", "shared: find 512 blocks, p50 us"),
        ("route", "8k tokens, list"),
        ("recover", "frontend killed: 90 % of the hit rate"),
    ],
)
def test_a_quick_run_prints_a_table(benchmark: str, row: str) -> None:
    lines = bench(benchmark, "--quick").splitlines()

    assert lines[0].startswith("cpu ")
    assert any(line.startswith(f"| {row}") and "| ours |" in line.replace("  ", "") for line in lines)


def test_calls_through_depends_are_measured_beside_those_of_a_bare_client() -> None:
    rows = bench("depends", "--quick").splitlines()

    for workload in ("unary", "stream 128", "unary, models", "stream 128, models"):
        for way in ("depends", "bare client"):
            assert [row for row in rows if row.startswith(f"| {workload} ") and f" {way} |" in row]


def test_increments_are_measured_beside_those_of_prometheus_and_judged() -> None:
    printed = bench("metrics", "--quick")

    for workload in ("counter, bound, in a scope", "counter, unbound, of an endpoint", "histogram, observe"):
        for way in ("ours", "prometheus_client"):
            assert [row for row in printed.splitlines() if row.startswith(f"| {workload} ") and f" {way} |" in row]
    assert "target 1.5: " in printed


def test_a_replay_measures_every_policy_on_every_trace() -> None:
    rows = bench("replay", "--quick").splitlines()

    for workload in ("conversation", "toolagent", "no-reuse", "shared-system-prompt"):
        for policy in ("kv", "kv, as 1.6", "oracle", "most-cached", "least-loaded", "round-robin"):
            assert [row for row in rows if row.startswith(f"| {workload} ") and f" {policy} |" in row]


def test_a_replay_says_of_every_target_whether_it_is_met() -> None:
    from benchmarks import replay

    def figures(kv: float, other: float) -> dict[str, dict[str, float]]:
        return {"kv": {"hit_percent": kv}, "oracle": {"hit_percent": other}}

    target = replay.Target("conversation", "hit_percent", "oracle", 0.95, is_at_most=False)
    met, missed = figures(48, 50), figures(47, 50)

    assert target.row([met, met]) == ["conversation: hits of kv / oracle", "at least 0.95", "0.96 [0.96-0.96]", "met"]
    assert target.row([met, missed])[3] == "missed"
    assert replay.Target("conversation", "hit_percent", None, 48).row([met])[1:] == ["at most 48", "48", "met"]


def test_what_the_published_system_does_not_have_is_not_compared_with_it() -> None:
    done = run("depends", "--peer")
    assert done.returncode == 2
    assert "--peer: there is nothing to compare depends with" in done.stderr


def test_every_figure_of_every_run_is_written_on_request(tmp_path: Path) -> None:
    bench("rpc", "--quick", "--concurrency", "2", "--json", str(tmp_path / "figures.json"))

    raw = json.loads((tmp_path / "figures.json").read_text())
    assert raw["machine"]["cores"] >= 1
    assert {one["workload"] for one in raw["measurements"]} == {"unary", "stream 128", "with turns"}
    assert all(one["figures"]["items_per_s"] > 0 for one in raw["measurements"])


def test_a_response_without_its_last_token_is_refused() -> None:
    from benchmarks.chat_load import check_response

    with pytest.raises(RuntimeError, match="127"):
        check_response(response(tokens=127), "")


def test_a_response_with_another_text_is_refused() -> None:
    from benchmarks.chat_load import check_response

    with pytest.raises(RuntimeError, match="'other'"):
        check_response(response(tokens=128, text="other"), "expected")


def test_a_complete_response_is_accepted() -> None:
    from benchmarks.chat_load import check_response

    check_response(response(tokens=128, text="rivers"), "rivers")


def response(tokens: int, text: str = "") -> bytes:
    """Return a streamed chat completion in one HTTP chunk."""
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens}},
    ]
    events = "".join(f"data: {data}\n\n" for data in [*map(json.dumps, chunks), "[DONE]"]).encode()
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(events), events)
