"""What people rely on of `dynamo serve` who start real graphs: where it runs, who sees what, and what is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, all_gone, environment_of
from tests.free_port import free_port

from dynamo.runtime import DistributedRuntime

Serve = Callable[..., Awaitable[Serving]]

PLACES = """
import asyncio, os
from dynamo.sdk import api, depends, dynamo_endpoint, service
from dynamo.sdk.lib.config import ServiceConfig
import helper_beside_it

AT_IMPORT = {name: os.environ.get(name) for name in ("MINE", "CUDA_VISIBLE_DEVICES")}
SIZE_AT_IMPORT = ServiceConfig.get_instance().get("Worker", {}).get("size")

@service(dynamo={"namespace": "places"}, resources={"gpu": 1}, workers=2)
class Worker:
    @dynamo_endpoint()
    async def where(self, request: str):
        return [os.getcwd(), AT_IMPORT["MINE"], AT_IMPORT["CUDA_VISIBLE_DEVICES"], SIZE_AT_IMPORT]

    @dynamo_endpoint()
    async def never_ends(self, request: str):
        yield str(os.getpid())
        await asyncio.Event().wait()

@service(dynamo={"namespace": "places"})
class Web:
    worker = depends(Worker)

    @api
    async def where(self) -> list[str | None]:
        return [os.getcwd(), AT_IMPORT["MINE"], AT_IMPORT["CUDA_VISIBLE_DEVICES"]]

    @api
    async def worker_where(self) -> list[str | int | None]:
        return await self.worker.where("")

    @api
    async def passes_on(self):
        async for item in self.worker.never_ends(""):
            yield item
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "places.py").write_text(PLACES)
    (folder / "helper_beside_it.py").write_text("")
    return folder


async def post(url: str) -> list[object]:
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = await client.post(url)
        assert response.status_code == 200, response.text
        answer: list[object] = response.json()
        return answer


async def test_workers_run_in_the_working_directory_whose_modules_they_import(
    serve: Serve, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("Worker:\n  size: 7\n  ServiceArgs:\n    envs:\n      MINE: here\n")
    serving = await serve(
        *("places:Web", "--working-dir", "project", "-f", "config.yaml", "--port", "0"),
        cwd=tmp_path,
        CUDA_VISIBLE_DEVICES="4,5",
    )
    url = await serving.ready()
    assert await post(f"{url}/where") == [str(project), None, "4,5"]
    answers = [await post(f"{url}/worker_where") for _ in range(30)]
    assert {str(answer) for answer in answers} == {str([str(project), "here", device, 7]) for device in ("4", "5")}


async def test_the_variables_of_the_options_say_the_same(serve: Serve, project: Path) -> None:
    port = free_port()
    serving = await serve(
        "places.py",
        "--dry-run",
        cwd=project,
        DYNAMO_PORT=str(port),
        DYNAMO_HOST="127.0.0.2",
        DYNAMO_SERVICE_NAME="Web",
        CUDA_VISIBLE_DEVICES="",
    )
    assert await serving.exit_status() == 0
    assert serving.out[:3] == ["Services:", f"  Web: 1 worker, http://127.0.0.2:{port}", ""]
    assert f"  port = {port}   (DYNAMO_PORT)" in serving.out


# A graph that cannot work is refused before any process of it starts.

MODELS = """
import pathlib
from pydantic import BaseModel
from dynamo.sdk import AbstractService, abstract_endpoint, api, depends, dynamo_endpoint, endpoint, service

class Text(BaseModel):
    text: str

class Prompt(BaseModel):
    prompt: str

class Engine(AbstractService):
    @abstract_endpoint
    async def run(self, request: Text) -> str:
        raise NotImplementedError

@service
class Worker:
    def __init__(self):
        pathlib.Path("started").touch()

    @dynamo_endpoint()
    async def generate(self, request: Prompt):
        yield request.prompt
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "@service\nclass Real(Engine):\n    top = depends(Engine)\n    @endpoint\n"
            "    async def run(self, request: Text) -> str: return ''\nReal.link(Real)\nTop = Real\n",
            "services depend on each other in a circle: Real -> Real",
        ),
        (
            "@service\nclass Top:\n    worker = depends(Worker)\n    @api\n"
            "    async def ask(self) -> None: await self.worker.generat('')\n",
            "Top.ask calls worker.generat, but Worker has no endpoint 'generat'; did you mean 'generate'?",
        ),
        (
            "@service\nclass Top:\n    worker = depends(Worker)\n    @api\n"
            "    async def ask(self, request: Text) -> None: await self.worker.generate(request)\n",
            "Top.ask sends Text to worker.generate, but Worker takes Prompt, whose field 'prompt' Text does not have",
        ),
        (
            "@service\nclass Top:\n    worker = depends(Worker)\n    engine = depends(Engine)\n    @api\n"
            "    async def ask(self) -> None: pass\n",
            "Service Engine is not servable: it is an interface that Top.engine needs; link a concrete service",
        ),
        (
            "@service\nclass Other(Worker): ...\n@service\nclass Top:\n    worker = depends(Worker)\n    @api\n"
            "    async def ask(self) -> None: pass\nTop.link(Top)\n",
            "Top does not fulfill any dependencies required by Top",
        ),
        ("@service\nclass Top(Engine): ...\n", "`Top` violates Dynamo interface"),
    ],
)
async def test_a_graph_that_cannot_work_is_one_line_and_starts_nothing(
    serve: Serve, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "graph.py").write_text(MODELS + text)
    serving = await serve("graph:Top")
    assert await serving.exit_status() in (1, 2)
    assert serving.out == []
    [line] = serving.err
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "started").exists()


# What nobody should see, and what is not left behind.

SECRET = """
import os
from dynamo.sdk import dynamo_endpoint, service

@service(dynamo={"namespace": "secrets"})
class Holder:
    def __init__(self, api_key: str = ""):
        self.length = len(api_key)

    @dynamo_endpoint()
    async def length_of_key(self, request: str) -> int:
        return self.length
"""


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the arguments of a process are read in /proc")
async def test_no_secret_of_the_configuration_is_an_argument_of_a_process_or_a_line_of_the_log(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "secret.py").write_text(SECRET)
    (tmp_path / "config.yaml").write_text("Holder:\n  api_key: sk-123456\n")
    serving = await serve("secret:Holder", "-f", "config.yaml", "-v", DYN_LOG="debug")
    await serving.ready()
    commands = [command_of(pid) for pid in (serving.process.pid, *serving.worker_pids())]
    assert len(commands) == 2
    assert not any("sk-123456" in command for command in commands)
    async with DistributedRuntime(discovery=f"file://{tmp_path / 'discovery'}", request_plane="tcp:") as runtime:
        client = await runtime.endpoint("secrets.Holder.length_of_key").client()
        assert await (await client.generate("", annotated=False)).batch() == [9]
    serving.interrupt()
    assert await serving.exit_status() == 0
    assert "sk-123456" not in serving.text


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_no_file_socket_or_directory_is_left_behind(
    serve: Serve, project: Path, tmp_path: Path, end: signal.Signals
) -> None:
    places = {name: tmp_path / name for name in ("TMPDIR", "XDG_RUNTIME_DIR", "HOME")}
    for place in places.values():
        place.mkdir(mode=0o700)
    variables = {name: str(place) for name, place in places.items()}
    serving = await serve("places:Web", "--port", "0", cwd=project, CUDA_VISIBLE_DEVICES="0,1", **variables)
    url = await serving.ready()
    await post(f"{url}/worker_where")
    pids = serving.worker_pids()
    serving.process.send_signal(end)
    await serving.process.wait()
    await all_gone(pids)
    for place in places.values():
        assert list(place.rglob("*")) == []
    async with DistributedRuntime(discovery=f"file://{tmp_path / 'discovery'}", request_plane="tcp:") as runtime:
        assert await runtime.discovery.get_prefix("v1/instances/") == {}


# A machine as small as there can be, and one worker that is lost.

TCP_LISTEN, LOOPBACK = "0A", "0100007F" if sys.byteorder == "little" else "7F000001"


def listening(pids: list[int]) -> set[str]:
    """The addresses that processes listen on, as the kernel writes them in hexadecimal."""
    links = {os.readlink(file) for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links}
    rows = [row.split() for family in ("tcp", "tcp6") for row in Path(f"/proc/net/{family}").read_text().splitlines()]
    return {row[1].partition(":")[0] for row in rows if row[3] == TCP_LISTEN and row[9] in inodes}


@pytest.mark.skipif(sys.platform != "linux", reason="what a process listens on is read in /proc")
async def test_no_process_of_a_graph_listens_where_other_machines_reach_it(serve: Serve, project: Path) -> None:
    variables = {"CUDA_VISIBLE_DEVICES": "0,1", "DYN_SYSTEM_PORT": "0"}
    serving = await serve("places:Web", "--port", "0", cwd=project, **variables)
    await serving.ready()
    assert listening([serving.process.pid, *serving.worker_pids()]) == {LOOPBACK}


def may_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0
    )


#: Has only a loopback interface, on which it serves the graph and calls it.
ALONE = """
import fcntl, signal, socket, struct, subprocess, sys, urllib.request

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
command = [sys.executable, "-m", "dynamo.cli", "serve", "places:Web", "--port", "0"]
serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
try:
    ready = next(line for line in serving.stdout if line.startswith("ready in "))
    url = ready.partition("Web at ")[2].partition(",")[0]
    request = urllib.request.Request(f"{url}/worker_where", method="POST")
    print("answer:", urllib.request.urlopen(request).read().decode())
    serving.send_signal(signal.SIGINT)
    print("status:", serving.wait())
finally:
    serving.kill()
"""


@pytest.mark.skipif(not may_unshare(), reason="only a user who may make a network of their own can be without one")
async def test_a_graph_runs_on_a_machine_that_has_only_loopback(project: Path, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-rn", sys.executable, "-c", ALONE),
        cwd=project,
        env={**environment_of(tmp_path / "discovery"), "CUDA_VISIBLE_DEVICES": "0,1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    async with Serving(process) as serving:
        assert await serving.exit_status() == 0, serving.text
    assert serving.err == []
    assert serving.out[0].startswith(f'answer: ["{project}",null,"')
    assert serving.out[1] == "status: 0"


async def test_calls_pass_over_a_worker_that_was_killed(serve: Serve, project: Path) -> None:
    serving = await serve("places:Web", "--port", "0", "--no-restart", cwd=project, CUDA_VISIBLE_DEVICES="0,1")
    url = await serving.ready()
    await post(f"{url}/worker_where")
    os.kill(serving.workers()["Worker:2"], signal.SIGKILL)
    await serving.line("^error: Worker:2 is gone")
    assert {str((await post(f"{url}/worker_where"))[2]) for _ in range(20)} == {"0"}


async def test_a_worker_that_dies_in_the_middle_of_an_answer_breaks_it_off_for_the_http_client(
    serve: Serve, project: Path
) -> None:
    serving = await serve("places:Web", "--port", "0", cwd=project, CUDA_VISIBLE_DEVICES="0,1")
    url = await serving.ready()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client, client.stream("POST", f"{url}/passes_on") as response:
        chunks = response.aiter_text()
        os.kill(int(await anext(chunks)), signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(chunks)
    await serving.line(r"^\[Web:1\] .*a response was broken off .*Disconnected")


SLOW = """
import asyncio, os, pathlib
from dynamo.sdk import async_on_start, depends, dynamo_endpoint, service

@service
class Quick:
    @dynamo_endpoint()
    async def generate(self, request):
        yield request

@service
class Slow:
    quick = depends(Quick)

    @async_on_start
    async def load_the_model(self):
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.05)
"""


async def test_a_start_that_takes_long_says_which_services_are_ready(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    serving = await serve("slow:Slow")
    await serving.line("^Quick ready$")
    assert not any("Slow ready" in line for line in serving.out)
    (tmp_path / "go").touch()
    await serving.ready()
