"""The interface_injection example: one frontend, and two graphs with different engines behind it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands

EXAMPLE = Path(__file__).parents[2] / "examples" / "interface_injection"
README = (EXAMPLE / "README.md").read_text()
[ECHO, SHOUTING, UNLINKED] = readme_commands(EXAMPLE, "dynamo serve")


@pytest.mark.parametrize(
    ("arguments", "services", "answer"),
    [
        (ECHO, "Frontend at .*, EchoEngine", "echo: hello world"),
        (SHOUTING, "Frontend at .*, ShoutingEngine x2", "shouting: HELLO! WORLD!"),
    ],
)
async def test_the_graph_decides_which_engine_answers(
    tmp_path: Path, arguments: list[str], services: str, answer: str
) -> None:
    [[_, _, _, _, body]] = readme_commands(EXAMPLE, "curl -X POST")
    environment = environment_of(tmp_path)
    async with await Serving.start(*arguments, "--port", "0", cwd=EXAMPLE, environment=environment) as serving:
        url = await serving.ready()
        await serving.line(rf"^ready in .*: {services}$")
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            headers = {"Content-Type": "application/json"}
            response = await client.post(f"{url}/generate", content=body, headers=headers)
        assert (response.status_code, response.text) == (200, answer)
        assert f"```\n{answer}\n```" in README


async def test_an_engine_is_configured_under_its_own_name(tmp_path: Path) -> None:
    environment = environment_of(tmp_path)
    mark = "--ShoutingEngine.mark=?"
    async with await Serving.start(*SHOUTING, mark, "--port", "0", cwd=EXAMPLE, environment=environment) as serving:
        url = await serving.ready()
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            response = await client.post(f"{url}/generate", json={"text": "hello"})
        assert response.text == "shouting: HELLO?"


async def test_a_frontend_whose_engine_nobody_chose_is_not_started(tmp_path: Path) -> None:
    async with await Serving.start(*UNLINKED, cwd=EXAMPLE, environment=environment_of(tmp_path)) as serving:
        assert await serving.exit_status() != 0
        assert serving.err == [line for line in README.splitlines() if line.startswith("error: ")]
