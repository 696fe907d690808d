"""A policy of somebody's own in the frontend: what is wrong with it is said at the start, or else in the log."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest
from tests.frontend.mocked import mocked
from tests.frontend.test_command import START_S

from dynamo._core.errors import ConfigError
from dynamo.frontend import Frontend
from dynamo.llm import Candidate

PROMPT = list(range(100, 140))


def secretive(candidate: Candidate) -> float:
    raise RuntimeError("secret-of-the-house")


def worthless(candidate: Candidate) -> float:
    return float("nan")


def exiting(candidate: Candidate) -> float:
    sys.exit(3)


@pytest.mark.parametrize("policy", ["secretive", "worthless", "exiting"])
async def test_a_request_whose_policy_fails_is_a_500_that_tells_nothing_of_the_inside(
    tiny_model: Path, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with mocked(tiny_model, router_mode="kv", router_policy=f"{__name__}:{policy}") as scene:
        answers = [await scene.ask(PROMPT, headers={"x-request-id": "mine"}, stream=stream) for stream in (False, True)]
    for answer in answers:
        assert answer.status_code == 500
        assert answer.json()["error"] == {
            "message": "the server failed to answer; its log says why (request mine)",
            "type": "server_error",
            "param": None,
            "code": "handler_error",
        }
    (told,) = [record.getMessage() for record in caplog.records if record.name.endswith(".policy")]
    assert f"the routing policy {__name__}:{policy} failed ({__file__}, line " in told


@pytest.mark.parametrize(
    "command",
    [
        ("dynamo.frontend", "--http-port", "0", "--router-mode", "kv", "--router-policy"),
        ("dynamo.cli", "route", "--backend", "http://127.0.0.1:9", "--http-port", "0", "--router-policy"),
        ("dynamo.cli", "replay", "--synthetic", "no-reuse", "--router-mode"),
    ],
    ids=["frontend", "route", "replay"],
)
async def test_a_policy_that_cannot_be_loaded_ends_the_command_before_it_does_anything(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "broken_policy.py").write_text("\nweight = 1 / 0\n")
    for name, why in (
        ("broken_policy:cost", f"the module cannot be imported ({tmp_path}/broken_policy.py, line 2): ZeroDivision"),
        ("nowhere:cost", "there is no module 'nowhere'"),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, name, cwd=tmp_path, stdout=PIPE, stderr=STDOUT,
            env={**os.environ, "DYN_DISCOVERY": f"file://{tmp_path}", "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(), START_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = output.decode()
        assert (process.returncode, said.count("\n")) == (2, 1), said
        assert said.startswith(f"error: the routing policy '{name}' cannot be loaded: {why}")


def test_a_graph_names_a_policy_that_is_loaded_when_the_frontend_is_made() -> None:
    with pytest.raises(ConfigError, match="there is no module 'nowhere'"):
        Frontend(router={"mode": "kv", "policy": "nowhere:cost"})
