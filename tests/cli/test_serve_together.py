"""Several `dynamo serve` on one machine: beside each other, and one that calls the services of another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, all_gone

Serve = Callable[..., Awaitable[Serving]]

GRAPH = """
import os
from dynamo.sdk import *

@service(dynamo={"namespace": os.environ.get("NAMESPACE", "test")})
class Backend:
    def __init__(self, word: str = "none"):
        self.word = word

    @dynamo_endpoint
    async def call(self, request: str) -> str:
        return self.word

@service(dynamo={"namespace": os.environ.get("NAMESPACE", "test")})
class Frontend:
    backend = depends(Backend)

    @api
    async def call(self) -> str:
        return await self.backend.call("")
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    file = tmp_path / "graph.py"
    file.write_text(GRAPH)
    return file


async def ask(url: str) -> str:
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        return str((await client.post(f"{url}/call")).json())


async def test_two_graphs_run_side_by_side_and_end_alone(serve: Serve, graph: Path) -> None:
    one = await serve("graph:Frontend", "--port", "0", "--Backend.word=one", NAMESPACE="one")
    two = await serve("graph:Frontend", "--port", "0", "--Backend.word=two", NAMESPACE="two")
    urls = [await one.ready(), await two.ready()]
    assert [await ask(url) for url in urls] == ["one", "two"]
    pids = one.worker_pids()
    one.interrupt()
    assert await one.exit_status() == 0
    await all_gone(pids)
    assert {await ask(urls[1]) for _ in range(5)} == {"two"}
    assert len(two.worker_pids()) == 2


async def test_a_graph_that_is_killed_takes_nothing_of_another_with_it(serve: Serve, graph: Path) -> None:
    one = await serve("graph:Frontend", "--port", "0", "--Backend.word=one")
    two = await serve("graph:Frontend", "--port", "0", "--Backend.word=two")
    await one.ready()
    url = await two.ready()
    pids = one.worker_pids()
    one.process.kill()
    await one.process.wait()
    await all_gone(pids)
    assert {await ask(url) for _ in range(5)} == {"two"}


async def test_the_second_graph_of_a_port_is_told_and_the_first_goes_on(serve: Serve, graph: Path) -> None:
    one = await serve("graph:Frontend", "--port", "0", "--Backend.word=one")
    url = await one.ready()
    two = await serve("graph:Frontend", "--port", url.rpartition(":")[2])
    assert await two.exit_status() == 1
    [line] = two.err
    assert "is in use, so Frontend cannot listen on it" in line
    assert await ask(url) == "one"


# Services that run elsewhere.


async def test_a_service_that_runs_elsewhere_is_called_and_not_started(serve: Serve, graph: Path) -> None:
    backend = await serve("graph:Backend", "--Backend.word=far", NAMESPACE="elsewhere")
    await backend.ready()
    frontend = await serve("graph:Frontend", "--port", "0", "--depends", "Backend=dynamo://elsewhere/Backend")
    url = await frontend.ready()
    assert set(frontend.workers()) == {"Frontend:1"}
    assert await ask(url) == "far"


async def test_the_variable_says_the_same_as_the_option(serve: Serve, graph: Path) -> None:
    value = "Backend=dynamo://elsewhere/Backend"
    serving = await serve("graph:Frontend", "--dry-run", DYNAMO_SERVE_DEPENDS=value)
    assert await serving.exit_status() == 0
    text = serving.text
    assert "Frontend" in text
    assert not [line for line in serving.out if line.strip().startswith("Backend:")]


@pytest.mark.parametrize(
    ("entry", "status", "message"),
    [
        ("Backend", 2, "error: Invalid format for --depends option. Use format 'name=value', not 'Backend'"),
        ("Backend=http://x/y", 2, "error: --depends: 'http://x/y' is no address; write Backend=dynamo://NAMESPACE/COM"),
        ("Backnd=dynamo://x/y", 1, "error: --depends: unknown service 'Backnd'; did you mean 'Backend'?"),
    ],
)
async def test_a_wrong_entry_is_named(serve: Serve, graph: Path, entry: str, status: int, message: str) -> None:
    serving = await serve("graph:Frontend", "--depends", entry)
    assert await serving.exit_status() == status
    [line] = serving.err
    assert line.startswith(message)
