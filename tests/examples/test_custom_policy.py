"""The custom_policy example, as its README says it is run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands
from tests.free_port import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_policy"


async def test_a_prompt_that_repeats_goes_where_the_policy_finds_it_cheapest(tmp_path: Path, tiny_model: Path) -> None:
    [arguments] = readme_commands(EXAMPLE, "dynamo serve")
    [[url, *_, body]] = readme_commands(EXAMPLE, "curl")
    port = free_port()
    overrides = [f"--Worker.model_path={tiny_model}", "--Worker.model_name=tiny-model", f"--Frontend.http_port={port}"]
    async with await Serving.start(
        *arguments[:-1], *overrides, cwd=EXAMPLE, environment=environment_of(tmp_path)
    ) as serving:
        await serving.ready()
        fields = {**json.loads(body), "nvext": {"explain": True}}
        async with httpx.AsyncClient(timeout=DEADLINE_S) as http, asyncio.timeout(DEADLINE_S):
            while True:
                answer = (await http.post(url.replace("8000", str(port)), json=fields)).json()
                [decision] = answer["nvext"]["explain"]["decisions"]
                if decision["predicted_cached_tokens"]:
                    break
        serving.interrupt()
        assert await serving.exit_status() == 0
    assert decision["chosen_by"] == "policy"
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == decision["predicted_cached_tokens"]
    cheapest, other = sorted(decision["candidates"], key=lambda one: one["cost"])
    assert decision["worker_id"] == cheapest["worker_id"]
    assert other["cost"] == 1.0
    assert cheapest["cost"] == 1 - cheapest["overlap_blocks"] / decision["num_blocks"]


def test_the_readme_shows_the_policy_that_is_used() -> None:
    policy = (EXAMPLE / "my_policy.py").read_text().partition("\ndef ")[2]
    code = [line for line in f"def {policy}".splitlines() if '"""' not in line]
    assert len(code) == 3
    assert "\n".join(code) in (EXAMPLE / "README.md").read_text()
