"""The basic_worker example, as its README says it is run."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands

EXAMPLE = Path(__file__).parents[2] / "examples" / "basic_worker"


async def test_the_client_prints_what_the_readme_says(tmp_path: Path) -> None:
    [arguments] = readme_commands(EXAMPLE, "dynamo serve")
    [client] = readme_commands(EXAMPLE, "python")
    environment = environment_of(tmp_path)
    async with await Serving.start(*arguments, cwd=EXAMPLE, environment=environment) as serving:
        await serving.ready()
        process = await asyncio.create_subprocess_exec(
            sys.executable, *client, cwd=EXAMPLE, env=environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert (process.returncode, err.decode()) == (0, "")
        assert out.decode().splitlines() == [line for line in readme_lines() if line.startswith("Annotated(")]
        assert len(out.splitlines()) == 2
        await serving.line("Worker endpoint received: Hello, Dynamo!")
        serving.interrupt()
        assert await serving.exit_status() == 0
        assert any("Starting worker..." in line for line in serving.err)


def readme_lines() -> list[str]:
    return (EXAMPLE / "README.md").read_text().splitlines()
