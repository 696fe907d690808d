"""The small version of `scripts/chaos`, and its command line."""

from __future__ import annotations

import random
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path

import pytest
from tests.system import chaos
from tests.system.chaos_runs import kill_points, percentile, rolling_restart
from tests.system.cluster import cluster

SEED = 20240607


async def test_no_token_is_lost_at_any_of_some_random_kill_points(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=3) as made:
        outcome = await kill_points(made, 5, random.Random(SEED))
        assert outcome.wrong == []
        assert outcome.num_hits == 5
        assert percentile(outcome.pauses_s, 99) < chaos.PAUSE_P99_S_MAX


async def test_a_rolling_restart_of_all_workers_under_load_fails_nobody(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model) as made:
        outcome = await rolling_restart(made, rounds=1)
        assert outcome.wrong == []
        assert outcome.num_answers >= 6
        assert outcome.num_hits == 2


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (99, 10), (100, 10), (1, 1)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(10, 0, -1)], percent) == expected


async def test_the_command_prints_its_figures_and_fails_if_one_is_missed() -> None:
    command = [sys.executable, "-m", "tests.system.chaos", "--only", "disconnect", "--disconnects", "25", "--seed", "1"]
    process = await create_subprocess_exec(*command, stdout=PIPE)
    output, _ = await process.communicate()
    lines = output.decode().splitlines()
    assert lines[0] == "seed=1"
    assert any(line.startswith("  ok   engine slot free after a disconnect, p99: ") for line in lines)
    assert process.returncode == 0
    assert not chaos.Figure("too many", 2, 1).reached
