"""The custom_config example: what its README says that each configuration answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_config"
README = (EXAMPLE / "README.md").read_text()
*SERVED, DRY_RUN, MISSPELT = readme_commands(EXAMPLE, "dynamo serve")
ANSWERS = [json.loads(answer) for answer in re.findall(r"```json\n(.*)\n```", README)]


@pytest.mark.parametrize(("arguments", "answer"), list(zip(SERVED, ANSWERS, strict=True)))
async def test_each_configuration_answers_as_the_readme_shows(
    tmp_path: Path, arguments: list[str], answer: dict[str, object]
) -> None:
    environment = environment_of(tmp_path)
    async with await Serving.start(*arguments, "--port", "0", cwd=EXAMPLE, environment=environment) as serving:
        url = await serving.ready()
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            response = await client.get(f"{url}/greet")
        assert response.status_code == 200, response.text
        assert response.json() in (answer, answer | {"worker_id": 2})
        workers = "Greeter x2" if "-f" in arguments else "Greeter"
        await serving.line(rf"^ready in .*, {workers}$")


async def test_the_dry_run_shows_the_values_and_their_sources_and_starts_nothing(tmp_path: Path) -> None:
    async with await Serving.start(*DRY_RUN, cwd=EXAMPLE, environment=environment_of(tmp_path)) as serving:
        assert await serving.exit_status() == 0
        assert "ready in" not in serving.text
        shown = {line.strip() for line in serving.out}
        documented = re.findall(r"```\n(Greeter:\n.*?)```", README, re.DOTALL)
        lines = {line.strip() for line in documented[0].splitlines()}
        assert len(lines) > 5
        assert lines <= shown, "\n".join(sorted(lines - shown))


async def test_a_misspelt_argument_is_named_before_anything_starts(tmp_path: Path) -> None:
    async with await Serving.start(*MISSPELT, cwd=EXAMPLE, environment=environment_of(tmp_path)) as serving:
        assert await serving.exit_status() != 0
        documented = re.findall(r"```\n(error: .*)\n```", README)
        assert serving.err == documented
