"""`dynamo serve` with real processes: ready, what it says when something is wrong, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import typer
from tests.cli.serving import DEADLINE_S, Serving, all_gone, children_of
from tests.free_port import free_port

from dynamo.cli._serve import OverridableCommand, split_overrides
from dynamo.runtime import DistributedRuntime

GRAPH = """
import asyncio, os, subprocess, sys, time
from dynamo.sdk import *

@service(dynamo={"namespace": "test"}, workers=2)
class Backend:
    def __init__(self, message: str = "default") -> None:
        self.message = message

    @async_on_start
    async def start(self):
        if os.environ.get("FAIL_IN_HOOK"):
            raise ValueError("no such model")
        if os.environ.get("WAIT_IN_HOOK"):
            print("hook waits")
            await asyncio.sleep(600)
        if os.environ.get("BLOCK_IN_HOOK"):
            print("hook blocks")
            time.sleep(600)
        if os.environ.get("LEAVE_A_CHILD"):
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    @async_on_shutdown
    async def end(self):
        print("backend ends", flush=True)
        if os.environ.get("FAIL_AT_THE_END"):
            raise ValueError("cannot clean up")

    @dynamo_endpoint
    async def generate(self, request: str):
        yield f"{self.message} {os.environ.get('MINE')}"

    @dynamo_endpoint
    async def pid(self, request: str) -> int:
        return os.getpid()

    @dynamo_endpoint
    async def block(self, request: str):
        yield "blocking"
        time.sleep(600)

@service(dynamo={"namespace": "test"})
class Frontend:
    backend = depends(Backend)

    @on_shutdown
    def end(self):
        print("frontend ends", flush=True)

    @api
    async def generate(self) -> str:
        return await self.backend.generate("")

    @api
    async def slow(self):
        yield "first"
        print("slow runs", flush=True)
        await asyncio.sleep(0.3)
        yield "second"

    @api
    async def never_done(self):
        yield "first"
        print("never done runs", flush=True)
        await asyncio.Event().wait()

    @api
    async def stuck(self):
        yield "first"
        print("stuck runs", flush=True)
        time.sleep(600)
"""

Serve = Callable[..., Awaitable[Serving]]


ADMIN = """
@service
class Admin(Frontend):
    frontend = depends(Frontend)
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    file = tmp_path / "graph.py"
    file.write_text(GRAPH + ADMIN)
    return file


# The command line.


@pytest.mark.parametrize("unfinished", [["--A.b"], ["--A.b", "="], ["--A.b", "--host"]])
def test_a_line_that_is_being_typed_may_end_in_an_unfinished_override(unfinished: list[str]) -> None:
    context = typer.Context(OverridableCommand("serve"), resilient_parsing=True)
    assert split_overrides(context, ["g:F", *unfinished]) == (["g:F"], [])


# Ready.


async def test_ready_means_that_every_service_can_be_called(serve: Serve, graph: Path) -> None:
    serving = await serve(
        "graph:Frontend", "--port", "0", "--Backend.message=hello", "--Backend.ServiceArgs.envs.MINE=5"
    )
    url = await serving.ready()
    assert len(serving.worker_pids()) == 3
    assert [line for line in serving.out if line.startswith("ready")] == [
        next(line for line in serving.out if line.endswith(f"Frontend at {url}, Backend x2"))
    ]
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        assert (await client.post(f"{url}/generate")).json() == "hello 5"


async def test_the_port_of_the_configuration_is_used_on_loopback(serve: Serve, graph: Path, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "config.yaml").write_text(f"Frontend:\n  port: {port}\n")
    serving = await serve("graph.py:Frontend", "-f", "config.yaml")
    assert await serving.ready() == f"http://127.0.0.1:{port}"


async def test_one_service_of_a_graph_may_run_alone(serve: Serve, graph: Path, tmp_path: Path) -> None:
    backend = await serve("graph:Frontend", "--service-name", "Backend", "--Backend.ServiceArgs.workers=1")
    await backend.ready()
    frontend = await serve("graph:Frontend", "--service-name", "Frontend", "--port", "0")
    url = await frontend.ready()
    assert (len(backend.worker_pids()), len(frontend.worker_pids())) == (1, 1)
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        assert (await client.post(f"{url}/generate")).json() == "default None"


async def test_a_dry_run_shows_what_would_start_and_starts_nothing(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--dry-run", "--Backend.message=hello")
    assert await serving.exit_status() == 0
    assert "  Frontend: 1 worker, http://127.0.0.1:8000" in serving.out
    assert "  Backend: 2 workers" in serving.out
    assert 'DYNAMO_SERVICE_CONFIG={"Backend": {"message": "hello"}}' in serving.out


@pytest.mark.parametrize("where", ["--host=0.0.0.0", "--Frontend.host=0.0.0.0"])
async def test_an_address_that_others_reach_needs_a_flag(serve: Serve, graph: Path, where: str) -> None:
    refused = await serve("graph:Frontend", where)
    assert await refused.exit_status() == 2
    assert refused.out == []
    assert refused.err == [
        "error: Frontend would listen on http://0.0.0.0:8000, which other machines reach, and nobody is asked for "
        "credentials: add --insecure if the network around it is trusted, or leave the host at 127.0.0.1"
    ]
    allowed = await serve("graph:Frontend", where, "--insecure", "--dry-run")
    assert await allowed.exit_status() == 0
    assert "  Frontend: 1 worker, http://0.0.0.0:8000" in allowed.out
    assert allowed.err == []


# What is wrong, in one line.


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nomod:Frontend"], 2, "error: Failed to import module \"nomod\": No module named 'nomod' in "),
        (["graph:Nope"], 2, 'error: Attribute "Nope" not found in "graph"; its services are Backend, Frontend'),
        (["nofile.py:Frontend"], 2, 'error: Module "nofile.py" not found in working directory '),
        (["graph:Frontend", "--Backend.ServiceArgs.worker=1"], 2, "did you mean 'workers'?"),
        (
            ["graph:Frontend", "--service-name", "ZZ"],
            2,
            "error: Service ZZ not found: graph:Frontend has Frontend, Backend",
        ),
        (
            ["raises:Frontend"],
            1,
            "error: Failed to import module \"raises\": KeyError: 'missing' is not set in the environment; set it",
        ),
        (
            ["graph:Frontend", "--host", "192.0.2.1", "--insecure"],
            1,
            "error: Frontend cannot listen on port 8000 of 192.0.2.1: ",
        ),
    ],
)
async def test_what_cannot_start_is_one_line(
    serve: Serve, graph: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "raises.py").write_text("import os\nos.environ['missing']\n")
    serving = await serve(*arguments)
    assert await serving.exit_status() == status
    errors = [line for line in serving.err if not line.startswith("warning:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert serving.out == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'GRAPH'"),
        (["graph:Frontend", "-f", "nope.yaml"], "'nope.yaml' does not exist"),
        (["graph:Frontend", "--prot", "1"], "No such option: --prot"),
        (["graph:Frontend", "--port", "99999"], "less than or equal to 65535"),
        (["graph:Frontend", "--Backend.message"], "--Backend.message needs a value"),
        (["graph:Frontend", "foo.bar"], "unexpected extra argument"),
    ],
)
async def test_a_wrong_command_line_is_a_usage_error(
    serve: Serve, graph: Path, arguments: list[str], message: str
) -> None:
    serving = await serve(*arguments, COLUMNS="200", NO_COLOR="1")
    assert await serving.exit_status() == 2
    assert message in serving.text


async def test_a_port_in_use_is_named_before_anything_starts(serve: Serve, graph: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serving = await serve("graph:Frontend", "--port", str(port))
        assert await serving.exit_status() == 1
    assert serving.err == [
        f"error: port {port} of 127.0.0.1 is in use, so Frontend cannot listen on it: stop what uses it, "
        "or choose another port with --port or Frontend.port"
    ]


async def test_a_hook_that_raises_ends_everything_and_is_named(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", FAIL_IN_HOOK="1")
    assert await serving.exit_status() == 1
    [line] = serving.err
    assert re.fullmatch(
        r"error: Backend:\d failed to start: .*ValueError: no such model \(graph.py:\d+ in start\)", line
    )
    assert not any(line.startswith("ready") for line in serving.out)


async def test_the_traceback_of_a_failure_is_there_for_those_who_ask(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "-v", FAIL_IN_HOOK="1")
    assert await serving.exit_status() == 1
    await serving.line(r"^\[Backend:\d\] Traceback")
    await serving.line(r"^\[Backend:\d\] +File .*graph.py")


async def test_the_traceback_of_an_import_is_there_for_those_who_ask(serve: Serve, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("import os\nos.environ['missing']\n")
    serving = await serve("raises:Frontend", "-v")
    assert await serving.exit_status() == 1
    await serving.line(r"^\[graph\] KeyError: 'missing'$")


async def test_a_wrong_log_level_is_named(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Backend", DYN_LOG="loud")
    assert await serving.exit_status() == 1
    await serving.line(r"^error: DYN_LOG='loud': 'loud' is no level")


async def test_two_services_of_one_port_are_named(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Admin")
    assert await serving.exit_status() == 2
    assert serving.err == [
        "error: Admin and Frontend would both listen on http://127.0.0.1:8000; set another Frontend.port"
    ]


# The end. Nothing is left.


@pytest.mark.parametrize("whole_group", [False, True])
async def test_ctrl_c_ends_callers_before_callees(serve: Serve, graph: Path, whole_group: bool) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    await serving.ready()
    pids = serving.worker_pids()
    if whole_group:
        os.killpg(serving.process.pid, signal.SIGINT)
    else:
        serving.interrupt()
    assert await serving.exit_status() == 0
    ends = [line for line in serving.out if line.endswith("ends")]
    assert ends[0] == "[Frontend:1] frontend ends"
    assert sorted(ends[1:]) == ["[Backend:1] backend ends", "[Backend:2] backend ends"]
    await all_gone(pids)


async def test_sigterm_ends_in_order_and_lets_responses_end(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    url = await serving.ready()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = asyncio.create_task(client.post(f"{url}/slow"))
        await serving.line("slow runs")
        serving.process.terminate()
        assert (await response).text == "firstsecond"
    assert await serving.exit_status() == 0
    assert not [line for line in serving.err if "uvicorn" in line]


async def test_who_connects_while_requests_are_finished_is_refused(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    url = await serving.ready()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = asyncio.create_task(client.post(f"{url}/never_done"))
        await serving.line("never done runs")
        serving.interrupt()
        await serving.line("requests that run: 1; waiting for them, for at most 20 s")
        with pytest.raises(httpx.ConnectError):
            await client.post(f"{url}/slow")
        serving.interrupt()
        assert await serving.exit_status() == 130
        await asyncio.gather(response, return_exceptions=True)


async def test_a_second_ctrl_c_ends_everything_at_once(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    url = await serving.ready()
    pids = serving.worker_pids()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = asyncio.create_task(client.post(f"{url}/stuck"))
        await serving.line("stuck runs")
        serving.interrupt()
        await serving.line("^stopping")
        serving.interrupt()
        assert await serving.exit_status() == 130
        await asyncio.gather(response, return_exceptions=True)
    await all_gone(pids)


async def test_ctrl_c_while_starting_ends_everything(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", WAIT_IN_HOOK="1")
    await serving.line("hook waits")
    pids = serving.worker_pids()
    serving.interrupt()
    assert await serving.exit_status() == 0
    assert not any(line.startswith("ready") for line in serving.out)
    await all_gone(pids)


async def test_ctrl_c_does_not_wait_for_a_start_that_blocks(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", BLOCK_IN_HOOK="1")
    await serving.line("hook blocks")
    pids = serving.worker_pids()
    serving.interrupt()
    assert await serving.exit_status() == 0
    await serving.line(r"^warning: Backend:\d was still starting and did not end by itself$")
    await all_gone(pids)


async def test_workers_end_when_their_parent_is_killed(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    await serving.ready()
    pids = serving.worker_pids()
    serving.process.kill()
    await serving.process.wait()
    await all_gone(pids)


async def test_workers_end_when_their_parent_is_killed_while_they_start(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0", WAIT_IN_HOOK="1")
    await serving.line("hook waits")
    pids = serving.worker_pids()
    serving.process.kill()
    await serving.process.wait()
    await all_gone(pids)


async def test_a_blocked_worker_ends_when_its_parent_is_killed(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Frontend", "--port", "0")
    url = await serving.ready()
    pids = serving.worker_pids()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = asyncio.create_task(client.post(f"{url}/stuck"))
        await serving.line("stuck runs")
        serving.process.kill()
        await all_gone(pids)
        await asyncio.gather(response, return_exceptions=True)


async def test_what_a_worker_has_started_ends_with_it(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Backend", LEAVE_A_CHILD="1")
    await serving.ready()
    grandchildren = [child for pid in serving.worker_pids() for child in children_of(pid)]
    assert len(grandchildren) == 2
    serving.interrupt()
    assert await serving.exit_status() == 0
    await all_gone(grandchildren)


async def test_a_shutdown_hook_that_raises_is_a_failure(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Backend", "--Backend.ServiceArgs.workers=1", FAIL_AT_THE_END="1")
    await serving.ready()
    serving.interrupt()
    assert await serving.exit_status() == 1
    await serving.line(r"^error: Backend:1 did not end well: ValueError: cannot clean up \(graph.py:\d+ in end\)$")


# Workers that end by themselves and are not started again.


async def test_a_lost_worker_is_reported_and_the_last_one_ends_everything(
    serve: Serve, graph: Path, tmp_path: Path
) -> None:
    serving = await serve("graph:Frontend", "--port", "0", "--no-restart")
    await serving.ready()
    pids = serving.worker_pids()
    async with DistributedRuntime(discovery=f"file://{tmp_path / 'discovery'}", request_plane="tcp:") as runtime:
        client = await runtime.endpoint("test.Backend.pid").client()
        backends = [await (await client.direct("", id, annotated=False)).batch() for id in client.instance_ids()]
    [[first], [second]] = backends
    assert isinstance(first, int)
    assert isinstance(second, int)
    os.kill(first, signal.SIGKILL)
    await serving.line(r"^error: Backend:\d is gone \(killed by SIGKILL\), 1 of 2 workers left$")
    os.kill(second, signal.SIGKILL)
    assert await serving.exit_status() == 1
    await serving.line(r"^error: Backend:\d is gone \(killed by SIGKILL\) and Backend has no worker left$")
    await all_gone(pids)


async def test_output_is_prefixed_and_has_no_colour_in_a_pipe(serve: Serve, graph: Path) -> None:
    serving = await serve("graph:Backend", "--Backend.ServiceArgs.workers=1")
    await serving.ready()
    serving.interrupt()
    await serving.exit_status()
    assert "[Backend:1] backend ends" in serving.out
    assert "\x1b" not in serving.text
