"""Every block of the README is run, as it stands there; a new block needs a test here."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from tests.cli.serving import DEADLINE_S, Serving, environment_of
from tests.free_port import free_port

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\w+\n(.*?)```", README, re.DOTALL)

DEMO, TEST, ACTIVATE, GREETER, SERVE, CALL, BY_HAND, ENGINE, RUN = BLOCKS


def save(directory: Path, block: str) -> Path:
    """Save a block under the name that its first line gives."""
    path = directory / block.splitlines()[0].removeprefix("# ")
    path.write_text(block)
    return path


@asynccontextmanager
async def running(*command: str, cwd: Path, discovery: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment_of(discovery), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), DEADLINE_S)


async def test_the_demo_runs_from_its_script(tmp_path: Path, tiny_model: Path) -> None:
    assert DEMO.strip() == "scripts/demo"
    options = ["--once", "--port", str(free_port()), "--model", str(tiny_model)]
    async with running(str(ROOT / DEMO.strip()), *options, cwd=tmp_path, discovery=tmp_path / "discovery") as process:
        output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 0, output.decode(errors="replace")
        assert re.search(rb"\[finish_reason: (length|stop)\]", output), output.decode(errors="replace")


def test_the_second_command_is_what_runs_this() -> None:
    assert (ROOT / TEST.strip()).is_file()
    assert f"exec {TEST.strip()}" in (ROOT / ".ci" / "run").read_text()


def test_the_environment_is_where_the_scripts_make_it() -> None:
    assert ACTIVATE.strip() == ". .venv/bin/activate"
    assert "make_venv .venv\n" in (ROOT / "scripts" / "_setup").read_text()


async def test_one_process_chats(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "my-model").symlink_to(tiny_model)
    program, *arguments = RUN.split()
    assert program == "dynamo"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dynamo.cli", *arguments),
        cwd=tmp_path,
        env=environment_of(tmp_path / "discovery"),
        stdin=PIPE,
        stdout=PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(b"Hello there\n"), DEADLINE_S)
    assert process.returncode == 0
    assert b"Hello there" in output


async def test_the_greeter_greets(tmp_path: Path) -> None:
    save(tmp_path, GREETER)
    call = save(tmp_path, CALL)
    program, _, arguments = SERVE.strip().partition(" serve ")
    assert program == "dynamo"
    discovery = tmp_path / "discovery"
    async with await Serving.start(*arguments.split(), cwd=tmp_path, environment=environment_of(discovery)) as serving:
        await serving.ready()
        assert len(serving.worker_pids()) == 3
        async with running(sys.executable, str(call), cwd=tmp_path, discovery=discovery) as process:
            output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert output.decode() == "Hello,\nworld\nand welcome!\n"


async def test_the_frontend_and_the_workers_run_by_hand(tmp_path: Path, tiny_model: Path) -> None:
    make, *commands = BY_HAND.strip().splitlines()
    (tmp_path / "my-model").symlink_to(tiny_model)  # what the first line would make
    assert (ROOT / make.split()[1]).is_file()
    port = str(free_port())
    async with AsyncExitStack() as stack:
        for line in commands:
            command = [sys.executable, *line.replace("8000", port).split()[1:]]
            await stack.enter_async_context(running(*command, cwd=tmp_path, discovery=tmp_path / "discovery"))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}"))
        await models_are(client, {"my-model", "echo"})
        for model in ("my-model", "echo"):
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
            response = await client.post("/v1/chat/completions", json=body, timeout=DEADLINE_S)
            assert response.status_code == 200, response.text
            assert response.json()["usage"]["completion_tokens"] == 4


async def test_an_engine_of_ones_own_answers(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "my-model").symlink_to(tiny_model)
    worker = save(tmp_path, ENGINE)
    port = str(free_port())
    frontend = [sys.executable, *BY_HAND.strip().splitlines()[1].replace("8000", port).split()[1:]]
    async with (
        running(*frontend, cwd=tmp_path, discovery=tmp_path / "discovery"),
        running(sys.executable, str(worker), cwd=tmp_path, discovery=tmp_path / "discovery"),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        await models_are(client, {"parrot"})
        body = {"model": "parrot", "prompt": "Hello there"}
        response = await client.post("/v1/completions", json=body, timeout=DEADLINE_S)
        assert response.status_code == 200, response.text
        [choice] = response.json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("Hello there", "stop")


async def models_are(client: httpx.AsyncClient, names: set[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                models = (await client.get("/v1/models")).json()["data"]
            except httpx.TransportError:  # not listening yet
                models = []
            if {model["id"] for model in models} == names:
                return
            await asyncio.sleep(0.05)
