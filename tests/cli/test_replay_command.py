"""`dynamo replay`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dynamo.cli._app import app

DEADLINE_S = 90.0
SMALL = ("--num-requests", "12", "--num-workers", "2")

run = CliRunner()


def replay(*arguments: str) -> tuple[int, str, str]:
    result = run.invoke(app, ["replay", *arguments], env={"COLUMNS": "120", "NO_COLOR": "1"}, standalone_mode=False)
    status = result.return_value if isinstance(result.return_value, int) else result.exit_code
    return status, result.stdout, result.stderr


def test_policies_are_shown_side_by_side_with_a_bar_for_each() -> None:
    status, out, _ = replay("--synthetic", "conversation", *SMALL)
    assert status == 0
    for policy in ("kv", "round-robin", "least-loaded"):
        assert len([line for line in out.splitlines() if line.startswith(f"{policy} ")]) == 3
    assert "12 requests, as they came, 1 times as fast, to 2 simulated workers." in " ".join(out.split())
    assert "█" in out


def test_reports_are_written_for_people_and_for_programs(tmp_path: Path) -> None:
    reports = [tmp_path / "report.html", tmp_path / "report.json"]
    flags = [part for report in reports for part in ("--report", str(report))]
    status, out, _ = replay("--synthetic", "no-reuse", *SMALL, "--router-mode", "kv,oracle", *flags)
    assert status == 0
    assert f"report: {reports[0]}" in out.replace("\n", "")
    assert "<svg" in reports[0].read_text()
    assert [one["policy"] for one in json.loads(reports[1].read_text())["policies"]] == ["kv", "oracle"]


def test_a_trace_in_a_file_is_replayed_with_the_options_that_are_given(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 100 * at, "input_length": 40, "output_length": 3, "hash_ids": [1, at]} for at in range(2, 6)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = tmp_path / "report.json"
    status, _, _ = replay(
        *(str(trace), "--trace-block-size", "32", "--block-size", "16", "--num-gpu-blocks", "100"),
        *("--replay-concurrency", "2", "--router-mode", "kv", "--kv-router-config", '{"overlap_score_credit": 2}'),
        *("--sla-ttft-ms", "0.001", "--report", str(report)),
    )
    assert status == 0
    read = json.loads(report.read_text())
    assert (read["replay_concurrency"], read["goals"]["ttft_s"]) == (2, 1e-6)
    assert (read["policies"][0]["num_requests"], read["policies"][0]["goodput"]) == (4, 0.0)


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        ((), 2, "error: give either the files of a trace, or --synthetic"),
        (("nowhere.jsonl",), 1, "error: the trace nowhere.jsonl cannot be read: No such file or directory"),
        (("a.jsonl", "--synthetic", "no-reuse"), 2, "error: give either the files of a trace, or --synthetic"),
        (("--synthetic", "no-reuse", "--router-mode", "magic"), 2, "error: there is no policy 'magic'"),
        (("--synthetic", "no-reuse", "--kv-router-config", "{"), 2, "error: the router's configuration is no JSON"),
        (
            ("--synthetic", "no-reuse", "--router-mode", "random,round-robin", "--kv-router-config", "{}"),
            *(2, "error: --kv-router-config is for the KV router, and none of random, round-robin is one: add kv"),
        ),
        (("--synthetic", "no-reuse", "--report", "report.pdf"), 2, "error: --report report.pdf: a report is a FILE.h"),
        (("--synthetic", "no-reuse", "--num-gpu-blocks", "9"), 1, "tokens with its answer, and the engines take 576"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: tuple[str, ...], status: int, what: str) -> None:
    found, out, err = replay(*arguments)
    assert (found, out) == (status, "")
    assert what in err
    assert err.count("\n") == 1


async def test_a_policy_that_fails_requests_fails_the_command_which_shows_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(
        "import sys\n\ndef exits(candidate):\n    sys.exit(3)\n\n"
        "def fails_at_some(candidate):\n    return 1 / (candidate.active_requests == 0)\n"
    )
    command = ("-m", "dynamo.cli", "replay", "--synthetic", "no-reuse", *SMALL, "--arrival-speedup-ratio", "1000")
    modes = ("--router-mode", "kv,picky:exits,picky:fails_at_some", "--report", "report.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *modes, stdout=PIPE, stderr=PIPE, cwd=tmp_path
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 1, err.decode()
    assert b"report: report.json" in out
    figures = json.loads((tmp_path / "report.json").read_text())["policies"]
    kv, exits, fails_at_some = [one["num_failed"] for one in figures]
    assert (kv, exits) == (0, 12)
    assert 0 < fails_at_some < 12
    *_, last = err.decode().splitlines()
    assert last == (
        "error: requests failed, and the other figures are without them: 12 of 12 with picky:exits (handler_error), "
        f"{fails_at_some} of 12 with picky:fails_at_some (handler_error)"
    )
    assert b"Traceback" not in err


async def test_ctrl_c_shows_what_there_is() -> None:
    command = ("-m", "dynamo.cli", "replay", "--synthetic", "no-reuse", "--num-requests", "100000")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, stderr=PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert b" of 100000 requests" in await process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 130, err.decode()
    said = " ".join(out.decode().split())
    assert "It was stopped before its end" in said
    assert "kv ████" in said
