"""The replay example: the commands of its README, and what it says of their results."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.serving import environment_of
from tests.docs.reader import blocks_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "replay"
DEADLINE_S = 120.0
COMPARE, TUNED, OWN = [
    shlex.split(block.text.replace("\\\n", " "))
    for block in blocks_of((EXAMPLE / "README.md").read_text())
    if block.language == "bash"
]


def replay(command: list[str], report: Path) -> dict[str, dict[str, float]]:
    """Run a command of the README in the example's folder; return what the mean TTFT and the rest of each policy is."""
    assert command[:2] == ["dynamo", "replay"]
    arguments = [part for part in command[2:] if part not in ("--report", "report.html")]
    flags = ["--report", str(report), "--report", str(report.with_suffix(".html"))]
    done = subprocess.run(
        [sys.executable, "-m", "dynamo.cli", "replay", *arguments, *flags],
        cwd=EXAMPLE, env=environment_of(report.parent) | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "<svg" in report.with_suffix(".html").read_text()
    return {one["policy"]: one for one in json.loads(report.read_text())["policies"]}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    return replay(COMPARE, tmp_path_factory.mktemp("compared") / "report.json")


@pytest.mark.timeout(180)
def test_the_kv_router_halves_the_wait_as_the_readme_says(compared: dict[str, dict[str, float]]) -> None:
    assert list(compared) == ["kv", "round-robin", "least-loaded"]
    assert mean_ttft(compared["kv"]) < mean_ttft(compared["round-robin"]) / 2
    assert compared["kv"]["hit_rate"] > compared["round-robin"]["hit_rate"]


@pytest.mark.timeout(180)
def test_other_options_are_better_and_nearly_as_good_as_can_be(
    compared: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    found = replay(TUNED, tmp_path / "report.json")
    assert mean_ttft(found["kv"]) < mean_ttft(compared["kv"])
    assert found["kv"]["hit_rate"] > 0.95 * found["oracle"]["hit_rate"]


@pytest.mark.timeout(180)
def test_a_policy_of_your_own_is_compared(tmp_path: Path) -> None:
    found = replay(OWN, tmp_path / "report.json")
    assert list(found) == ["kv", "my_policy:cached_but_not_crowded"]
    assert all(one["num_failed"] == 0 for one in found.values())


def mean_ttft(figures: dict[str, float]) -> float:
    spread = figures["ttft_s"]
    assert isinstance(spread, dict)
    mean = spread["mean"]
    assert isinstance(mean, float)
    return mean
