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
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("benchmark", "row"),
    [("rpc", "with turns"), ("http", "chat stream"), ("startup", "worker joins: serve to first answer, ms")],
)
def test_a_quick_run_prints_a_table(benchmark: str, row: str) -> None:
    lines = bench(benchmark, "--quick").splitlines()

    assert lines[0].startswith("cpu ")
    assert any(line.startswith(f"| {row}") and "| ours |" in line.replace("  ", "") for line in lines)


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
