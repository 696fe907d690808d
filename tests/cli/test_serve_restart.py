"""`dynamo serve` starts workers again that end by themselves, and leaves nothing behind, whatever ends when."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, all_gone, children_of, environment_of, workers_below
from tests.etcd_server import etcd

from dynamo._core.exit_status import FAILED, OK
from dynamo.sdk._config import merged_config
from dynamo.sdk._console import Console
from dynamo.sdk._importing import read_outline
from dynamo.sdk._plan import Plan, make_plan
from dynamo.sdk._slot import RestartPolicy
from dynamo.sdk._supervisor import Supervision, Supervisor

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

Serve = Callable[..., Awaitable[Serving]]

GRAPH = """
import asyncio, os, pathlib, signal, subprocess, sys, time
from dynamo.sdk import *

@service(dynamo={"namespace": "test"}, workers=2, envs=[{"name": "MINE", "value": "5"}])
class Worker:
    def __init__(self):
        if pathlib.Path("broken").exists():
            raise ValueError("no such model")
        if pathlib.Path("slow").exists():
            print("slow start", os.getpid())
            time.sleep(600)
        for option in os.environ.get("CHILDREN", "").split():
            code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
            subprocess.Popen([sys.executable, "-c", code], start_new_session=option == "away")

    @dynamo_endpoint
    async def call(self, request: str):
        return f"{dynamo_context['worker_id']} {os.getpid()} {os.environ['MINE']}"

@service(dynamo={"namespace": "test"})
class Frontend:
    worker = depends(Worker)

    @api
    async def call(self) -> str:
        return await self.worker.call("")

    @api
    async def exit(self, status: int) -> None:
        os._exit(status)
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    file = tmp_path / "graph.py"
    file.write_text(GRAPH)
    return file


async def ask(url: str, path: str = "call") -> list[str]:
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = await client.post(f"{url}/{path}")
        assert response.status_code == 200, response.text
        return str(response.json()).split()


async def test_a_killed_worker_comes_back_under_its_number_with_its_environment(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    url = await serving.ready()
    lost = serving.workers()["Worker:2"]
    os.kill(lost, signal.SIGKILL)
    await serving.line(
        r"^error: Worker:2 is gone \(killed by SIGKILL\), 1 of 2 workers left; "
        r"starting it again in 0\.5 s \(1st restart\)$"
    )
    await serving.line("^Worker:2 is ready again$")
    workers = serving.workers()
    assert set(workers) == {"Frontend:1", "Worker:1", "Worker:2"}
    assert workers["Worker:2"] != lost
    answers = {tuple(await ask(url)) for _ in range(30)}
    assert answers == {(str(number), str(workers[f"Worker:{number}"]), "5") for number in (1, 2)}
    serving.interrupt()
    assert await serving.exit_status() == 0
    await all_gone(list(workers.values()))


async def test_a_frontend_comes_back_at_its_port(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    url = await serving.ready()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(f"{url}/exit", params={"status": 7})
    await serving.line(r"^error: Frontend:1 is gone \(ended with status 7\), 0 of 1 workers left; starting it again")
    await serving.line("^Frontend:1 is ready again$")
    assert len(await ask(url)) == 3


async def test_a_restart_that_fails_says_why_and_is_tried_again(serve: Serve, graph: Path, tmp_path: Path) -> None:
    serving = await serve("graph:Worker")
    await serving.ready()
    (tmp_path / "broken").touch()
    os.kill(serving.workers()["Worker:1"], signal.SIGKILL)
    await serving.line(
        r"^error: Worker:1 failed to start again \(.*ValueError: no such model.*\), 1 of 2 workers left; "
        r"starting it again in 1 s \(2nd restart\)$"
    )
    (tmp_path / "broken").unlink()
    await serving.line("^Worker:1 is ready again$")


async def test_a_start_that_fails_is_not_tried_again(serve: Serve, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    serving = await serve("graph:Worker")
    assert await serving.exit_status() == 1
    [line] = serving.err
    assert line.startswith("error: Worker:")
    assert "failed to start: " in line


async def test_ctrl_c_ends_everything_while_a_worker_starts_again(serve: Serve, graph: Path, tmp_path: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    await serving.ready()
    pids = serving.worker_pids()
    (tmp_path / "slow").touch()
    os.kill(serving.workers()["Worker:1"], signal.SIGKILL)
    pids.append(int((await serving.line(r"slow start (\d+)"))[1]))
    serving.interrupt()
    assert await serving.exit_status() == 0
    await serving.line("^warning: Worker:1 was still starting and did not end by itself$")
    await all_gone(pids)


async def test_nothing_is_left_when_the_supervisor_is_killed_while_a_worker_starts_again(
    serve: Serve, graph: Path, tmp_path: Path
) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    await serving.ready()
    pids = serving.worker_pids()
    (tmp_path / "slow").touch()
    os.kill(serving.workers()["Worker:1"], signal.SIGKILL)
    pids.append(int((await serving.line(r"slow start (\d+)"))[1]))
    serving.process.kill()
    await serving.process.wait()
    await all_gone(pids)


# What workers have started.


async def grandchildren(serving: Serving, count: int) -> list[int]:
    found = [child for pid in serving.worker_pids() for child in children_of(pid)]
    assert len(found) == count
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only what stays in the group of its worker is found")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
async def test_what_workers_have_started_ends_however_it_hides(serve: Serve, graph: Path, end: signal.Signals) -> None:
    serving = await serve("graph:Worker", CHILDREN="here away")
    await serving.ready()
    left = await grandchildren(serving, 4)
    serving.process.send_signal(end)
    await serving.process.wait()
    await all_gone(left)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only what stays in the group of its worker is found")
async def test_what_a_lost_worker_has_started_ends_with_it_and_nothing_else(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Worker", CHILDREN="here away")
    await serving.ready()
    workers = serving.workers()
    lost, kept = children_of(workers["Worker:1"]), children_of(workers["Worker:2"])
    os.kill(workers["Worker:1"], signal.SIGKILL)
    await serving.line("^Worker:1 is ready again$")
    await all_gone(lost)
    assert children_of(workers["Worker:2"]) == kept
    assert len(kept) == 2


# A loop of crashes, without the waiting.


class Output(io.BytesIO):
    """A stream that tells when a line says that the graph is ready; `ready_again` grows with each worker that is."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = asyncio.Event()
        self.ready_again: asyncio.Queue[None] = asyncio.Queue()

    def write(self, data: Buffer) -> int:
        if bytes(data).startswith(b"ready in "):
            self.ready.set()
        if b" is ready again" in bytes(data):
            self.ready_again.put_nowait(None)
        return super().write(data)


class Complaints(io.BytesIO):
    """The errors of a graph; `failed_starts` grows with each start that failed."""

    def __init__(self) -> None:
        super().__init__()
        self.failed_starts: asyncio.Queue[None] = asyncio.Queue()

    def write(self, data: Buffer) -> int:
        if b" failed to start again (" in bytes(data):
            self.failed_starts.put_nowait(None)
        return super().write(data)


async def plan_of(folder: Path, environment: dict[str, str]) -> Plan:
    console = Console(io.BytesIO(), io.BytesIO(), {})
    outline = await read_outline("graph:Worker", str(folder), console, environment)
    return make_plan("graph:Worker", str(folder), outline, merged_config(None, {}, []), environment)


async def test_a_graph_ends_when_all_workers_of_a_service_are_given_up(graph: Path, tmp_path: Path) -> None:
    environment = environment_of(tmp_path / "discovery")
    out, err = Output(), io.BytesIO()
    console = Console(out, err, {})
    policy = RestartPolicy(first_delay_s=0.01, failed_starts_max=2)
    plan = await plan_of(tmp_path, environment)
    supervisor = Supervisor(plan, console, Supervision(environment, restart=policy))
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(DEADLINE_S):
        await out.ready.wait()
        (tmp_path / "broken").touch()
        for pid in workers_below(os.getpid()).values():
            os.kill(pid, signal.SIGKILL)
        assert await running == FAILED
    lines = err.getvalue().decode().splitlines()
    assert sum("is gone (killed by SIGKILL)" in line for line in lines) == 2
    assert sum(line.startswith("error: Worker:") and "failed to start again (" in line for line in lines) == 2
    first, last = [line for line in lines if "failed to start 2 times in a row" in line]
    assert first.endswith(", is given up, 1 of 2 workers left")
    assert last.endswith(", is given up and Worker has no worker left")


async def test_a_worker_that_is_lost_while_etcd_is_away_comes_back_with_it_however_long_that_takes(
    graph: Path, tmp_path: Path
) -> None:
    async with etcd(tmp_path / "etcd") as member:
        environment = {**environment_of(tmp_path), "DYN_DISCOVERY": f"etcd://127.0.0.1:{member.port}"}
        out, err = Output(), Complaints()
        policy = RestartPolicy(first_delay_s=0.01, failed_starts_max=2, away_delay_s_max=0.02)
        plan = await plan_of(tmp_path, environment)
        supervisor = Supervisor(plan, Console(out, err, {}), Supervision(environment, restart=policy))
        running = asyncio.create_task(supervisor.run())
        async with asyncio.timeout(2 * DEADLINE_S):
            await out.ready.wait()
            await member.kill()
            for pid in workers_below(os.getpid()).values():
                os.kill(pid, signal.SIGKILL)
            for _ in range(6):  # two places that would be given up after two each
                await err.failed_starts.get()
            assert not running.done()
            await member.start()
            for _ in range(2):  # one whose start still fails would make the end a bad one
                await out.ready_again.get()
            supervisor.on_signal()
            assert await running == OK
    assert "given up" not in err.getvalue().decode()
    assert "no member of the etcd that DYN_DISCOVERY names answers" in err.getvalue().decode()
