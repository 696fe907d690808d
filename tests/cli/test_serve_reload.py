"""`dynamo serve --reload`: an edit starts new processes, which take over from the old ones without a gap."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, all_gone

Serve = Callable[..., Awaitable[Serving]]

GRAPH = """
import asyncio, os, pathlib
from dynamo.sdk import *
VERSION = "one"

@service(dynamo={"namespace": "test"})
class Backend:
    def __init__(self, word: str = "none"):
        self.word = word

    @dynamo_endpoint
    async def count(self, request: str):
        yield VERSION
        print("stream runs", VERSION)
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.02)
        yield VERSION

    @dynamo_endpoint
    async def version(self, request: str):
        return f"{VERSION} {self.word}"

@service(dynamo={"namespace": "test"})
class Frontend:
    backend = depends(Backend)

    @api
    async def call(self) -> str:
        return VERSION + " " + await self.backend.version("")

    @api
    async def stream(self):
        async for item in self.backend.count(""):
            yield f"{VERSION}-{item} "
"""

EDITED = GRAPH.replace('"one"', '"two"')

HOOK = """
    @async_on_start
    async def start(self):
        {body}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    file = tmp_path / "graph.py"
    file.write_text(GRAPH)
    return file


def with_hook(body: str) -> str:
    """The graph with a startup hook of the backend."""
    head, marker, rest = GRAPH.partition("    @dynamo_endpoint")
    return head + HOOK.format(body=body) + marker + rest


def edit(file: Path, text: str) -> None:
    file.write_text(text)


async def call(client: httpx.AsyncClient, url: str) -> str:
    response = await client.post(f"{url}/call")
    assert response.status_code == 200, response.text
    return str(response.json())


async def until(client: httpx.AsyncClient, url: str, wanted: str) -> None:
    """Call until this is the answer."""
    async with asyncio.timeout(DEADLINE_S):
        while await call(client, url) != wanted:
            pass


async def test_a_stream_ends_in_the_old_process_and_new_requests_get_the_new_code(
    serve: Serve, graph: Path, tmp_path: Path
) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    url = await serving.ready()
    old = serving.worker_pids()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = asyncio.create_task(client.post(f"{url}/stream"))
        await serving.line("stream runs one")
        edit(graph, EDITED)
        await serving.line(r"^graph\.py changed; reloading$")
        await serving.line(rf"^reloaded in \d+\.\d s: Frontend at {url}, Backend$")
        await until(client, url, "two two none")
        assert not response.done()
        (tmp_path / "go").touch()
        assert (await response).text == "one-one one-one "
        await all_gone(old)
        assert {await call(client, url) for _ in range(20)} == {"two two none"}
    serving.interrupt()
    assert await serving.exit_status() == 0
    assert serving.err == []


async def test_no_request_fails_while_it_reloads(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload", "--Backend.ServiceArgs.workers=2")
    url = await serving.ready()
    old = serving.worker_pids()
    answers: set[str] = set()

    async def keep_calling() -> None:
        # A connection for each request, as from many clients: none must be refused.
        while "two two none" not in answers or set(serving.worker_pids()) & set(old):
            async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
                answers.add(await call(client, url))

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as callers:
        for _ in range(4):
            callers.create_task(keep_calling())
        edit(graph, EDITED)
    assert {"one one none", "two two none"} <= answers


async def test_code_that_cannot_be_imported_leaves_the_old_running(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    url = await serving.ready()
    old = serving.workers()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        edit(graph, GRAPH + "\nthis is no Python\n")
        await serving.line(r"^error: not reloaded, what runs goes on: .*SyntaxError: .*\(graph\.py:\d+\)$")
        assert await call(client, url) == "one one none"
        assert serving.workers() == old
        edit(graph, EDITED)
        await until(client, url, "two two none")
    await all_gone(list(old.values()))


async def test_code_that_does_not_become_ready_leaves_the_old_running(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    url = await serving.ready()
    old = serving.workers()
    edit(graph, with_hook("print('new', os.getpid()); raise ValueError('no such model')"))
    await serving.line(r"^error: not reloaded, what runs goes on: Backend:1 failed to start: .*no such model")
    new = int((await serving.line(r"new (\d+)"))[1])
    await all_gone([new])
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        assert await call(client, url) == "one one none"
    assert set(old.values()) <= set(serving.worker_pids())


async def test_another_edit_starts_the_reload_again(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    url = await serving.ready()
    edit(graph, with_hook("print('waiting', os.getpid()); await asyncio.sleep(600)"))
    waiting = int((await serving.line(r"waiting (\d+)"))[1])
    edit(graph, EDITED)
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        await until(client, url, "two two none")
    await all_gone([waiting])


async def test_workers_that_do_not_even_read_are_replaced(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    await serving.ready()
    old = serving.workers()
    for pid in old.values():
        os.kill(pid, signal.SIGSTOP)
    edit(graph, EDITED)
    await serving.line("^reloaded in")
    serving.interrupt()
    await serving.line("^stopping")
    serving.interrupt()  # kills them: what was written to them is unread
    assert await serving.exit_status() == 130
    assert serving.err == []
    await all_gone(list(old.values()))


async def test_ctrl_c_while_it_reloads_leaves_nothing(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    await serving.ready()
    pids = serving.worker_pids()
    edit(graph, with_hook("print('waiting', os.getpid()); await asyncio.sleep(600)"))
    pids.append(int((await serving.line(r"waiting (\d+)"))[1]))
    pids += serving.worker_pids()
    serving.interrupt()
    assert await serving.exit_status() == 0
    await all_gone(pids)


async def test_ctrl_c_while_the_edited_graph_is_imported_leaves_nothing(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    await serving.ready()
    pids = serving.worker_pids()
    edit(graph, f"import os, time\nprint('importing', os.getpid())\ntime.sleep(600)\n{GRAPH}")
    pids.append(int((await serving.line(r"importing (\d+)"))[1]))
    serving.interrupt()
    assert await serving.exit_status() == 0
    await all_gone(pids)


async def test_nothing_is_left_when_the_supervisor_is_killed_while_it_reloads(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    await serving.ready()
    edit(graph, with_hook("print('waiting', os.getpid()); await asyncio.sleep(600)"))
    await serving.line(r"waiting (\d+)")
    pids = serving.worker_pids()
    assert len(pids) == 4
    serving.process.kill()
    await serving.process.wait()
    await all_gone(pids)


async def test_an_edit_of_the_configuration_reloads_wherever_it_lies(
    serve: Serve, graph: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tmp_path_factory.mktemp("elsewhere") / "config.yaml"
    config.write_text("Backend: {word: first}\n")
    serving = await serve("graph:Frontend", "--port", "0", "--reload", "-f", str(config))
    url = await serving.ready()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        assert await call(client, url) == "one one first"
        replacement = config.with_suffix(".new")
        replacement.write_text("Backend: {word: second, ServiceArgs: {workers: 2}}\n")
        replacement.rename(config)  # as editors do
        await until(client, url, "one one second")
    await serving.line(r"^reloaded in .*: Frontend at .*, Backend x2$")


async def test_services_and_ports_may_come_and_go(serve: Serve, graph: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("Frontend: {port: 0}\n")
    serving = await serve("graph:Frontend", "--reload", "-f", str(config))
    await serving.ready()
    old = serving.workers()
    lines = GRAPH.replace("class Backend", "class Other").replace("depends(Backend)", "depends(Other)")
    admin = (
        "\n@service(dynamo={'namespace': 'test'})\nclass Admin:\n @api\n async def ping(self) -> str: return 'pong'\n"
    )
    lines = lines.replace("    @api", "    admin = depends(Admin)\n    @api", 1)
    head, marker, rest = lines.partition("@service")
    edit(graph, head + admin + marker + rest)
    edit(config, "Frontend: {port: 0}\nAdmin: {port: 0}\n")
    reloaded = await serving.line(r"^reloaded in .*: Frontend at (\S+), Other, Admin at (\S+)$")
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        await until(client, reloaded[1], "one one none")
        assert (await client.post(f"{reloaded[2]}/ping")).json() == "pong"
    await all_gone(list(old.values()))
    assert set(serving.workers()) == {"Frontend:1", "Other:1", "Admin:1"}


async def test_a_worker_that_is_lost_after_a_reload_comes_back(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--reload")
    url = await serving.ready()
    old = serving.worker_pids()
    edit(graph, EDITED)
    await serving.line("^reloaded in ")
    await all_gone(old)
    os.kill(serving.workers()["Backend:1"], signal.SIGKILL)
    await serving.line("^Backend:1 is ready again$")
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        with suppress(AssertionError):  # it may find that the worker is just gone
            await call(client, url)
        await until(client, url, "two two none")


@pytest.mark.parametrize("name", ["notes.txt", ".venv/lib/x.py", "__pycache__/x.py", ".git/x.py", "node_modules/x.py"])
async def test_other_files_are_no_reason_to_reload(serve: Serve, graph: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    serving = await serve("graph:Backend", "--reload")
    await serving.ready()
    (tmp_path / name).write_text("x = 1\n")
    edit(graph, EDITED)
    await serving.line("^graph.py changed; reloading$")
    assert name not in serving.text
