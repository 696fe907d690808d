"""A few hundred runs with faults. `scripts/sim` runs as many as you like, and replays the one that fails here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.sim.scenario import MAX_TOKENS, PROMPTS, Ask, Call, Fault, HttpRequest, Scenario
from tests.sim.simulate import simulate

CHUNKS, CHUNK = 30, 10
REPOSITORY = Path(__file__).resolve().parents[2]


def wrongs_of(seed: int) -> list[str]:
    result = simulate(seed)
    return [f"seed={seed}: {wrong}" for wrong in result.wrongs]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_goes_wrong_every_promise_is_kept(chunk: int) -> None:
    assert [wrong for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK) for wrong in wrongs_of(seed)] == []


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_replays_exactly(seed: int) -> None:
    first = simulate(seed)
    assert simulate(seed).digest == first.digest


def test_a_seed_replays_exactly_in_another_process() -> None:
    seed = 7
    digests = {simulate(seed).digest}
    for hash_seed in ("1", "2"):
        program = f"from tests.sim.simulate import simulate; print(simulate({seed}).digest)"
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "src:.", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment, cwd=REPOSITORY
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_seeds_differ() -> None:
    assert len({simulate(seed).digest for seed in range(10)}) == 10


def test_requests_meet_every_end_that_there_is() -> None:
    ends = {end for seed in range(60) for end in simulate(seed).outcomes}
    assert {"finished", "left", "lost", "failed disconnected", "failed stalled", "failed cannot_connect"} <= ends


def test_without_faults_every_request_is_answered() -> None:
    asks = [Ask(prompt, max_tokens) for prompt in PROMPTS for max_tokens in MAX_TOKENS]
    requests = tuple(HttpRequest(f"http-{number}", 0.1 * number, 0, ask) for number, ask in enumerate(asks))
    result = simulate(Scenario(0, 2, 1, 1, 0.01, 60.0, is_sheltered=True, http_requests=requests))
    assert result.wrongs == []
    assert set(result.outcomes) == {"finished", "finished length"}


def test_a_deadline_that_passes_while_a_worker_cannot_be_reached_is_kept() -> None:
    cut = Fault("cut", 0.5, 10.0)
    calls = tuple(Call(f"call-{index}", 1.0 + 3 * index, 0, (20, 21), 9, timeout_s=0.5) for index in range(3))
    result = simulate(Scenario(0, 1, 0, 1, 0.01, 60.0, calls=calls, faults=(cut,)))
    assert result.wrongs == []
    assert "failed deadline_exceeded" in result.outcomes


def test_many_seeds_are_run_and_counted_by_the_command() -> None:
    command = [sys.executable, "-m", "tests.sim", "--seeds", "4", "--from", "100", "--jobs", "1"]
    environment = {"PYTHONPATH": "src", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 seeds" in done.stdout
