"""The hello_world example, as its README says it is run."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
COMMANDS = readme_commands(EXAMPLE, "dynamo serve")


async def start(tmp_path: Path, *arguments: str) -> Serving:
    """Serve it on a free port."""
    return await Serving.start(*arguments, "--port", "0", cwd=EXAMPLE, environment=environment_of(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (COMMANDS[0], "Frontend: Middle: Backend: test-mid-back"),
        (COMMANDS[1], "Frontend: Middle: Backend: test-mid-back"),
        (COMMANDS[2], "Frontend: Middle: Backend: test-mid-there"),
    ],
)
async def test_a_request_goes_down_the_row_and_up_again(tmp_path: Path, arguments: list[str], answer: str) -> None:
    [curl] = readme_commands(EXAMPLE, "curl -X POST")
    body = curl[curl.index("-d") + 1]
    async with await start(tmp_path, *arguments) as serving, httpx.AsyncClient(timeout=DEADLINE_S) as client:
        url = await serving.ready()
        headers = {"Content-Type": "application/json", "accept": "text/event-stream"}
        assert curl[0] == "localhost:8000/generate"
        response = await client.post(f"{url}/generate", content=body, headers=headers)
        assert (response.status_code, response.text) == (200, answer)
        serving.interrupt()
        assert await serving.exit_status() == 0


async def test_the_answer_is_streamed_item_by_item(tmp_path: Path) -> None:
    async with await start(tmp_path, *COMMANDS[0]) as serving, httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = await client.post(f"{await serving.ready()}/generate", json={"text": "one two"})
        assert response.text == "Frontend: Middle: Backend: oneFrontend: Middle: Backend: two-mid-back"


async def test_a_wrong_request_is_refused(tmp_path: Path) -> None:
    async with await start(tmp_path, *COMMANDS[0]) as serving, httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = await client.post(f"{await serving.ready()}/generate", json={"txt": "test"})
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "text"]


async def test_the_file_sets_the_port_the_messages_and_a_second_backend(tmp_path: Path) -> None:
    async with await start(tmp_path, *COMMANDS[1]) as serving:
        await serving.line(r"^ready in .*: Frontend at .*, Middle, Backend x2$")
    async with await Serving.start(*COMMANDS[3], cwd=EXAMPLE, environment=environment_of(tmp_path)) as serving:
        assert await serving.exit_status() == 0
    shown = {line.strip() for line in serving.out}
    assert "Frontend: 1 worker, http://127.0.0.1:8000" in shown
    for value in ("port = 8000", 'message = "mid"', 'message = "back"', "workers = 2"):
        assert any(line.startswith(f"{value}   (config.yaml:") for line in shown), serving.text
