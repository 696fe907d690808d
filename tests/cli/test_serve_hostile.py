"""`dynamo serve` with graphs that do what a graph should not, and started where little is as usual."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.cli.serving import DEADLINE_S, Serving, all_gone, environment_of

Serve = Callable[..., Awaitable[Serving]]

WORKER = """
import asyncio, os, signal, subprocess, sys, threading, time
from dynamo.sdk import *

@service(dynamo={"namespace": "test"})
class Other:
    @dynamo_endpoint
    async def call(self, request):
        return request

@service(dynamo={"namespace": "test"})
class Worker:
    other = depends(Other)

    def __init__(self, temperature: float = 0.7):
        pass

    @dynamo_endpoint
    async def call(self, request):
        return request

@service(dynamo={"namespace": "test"}, workers=2)
class Needy:
    def __init__(self, model: str, path):
        pass

Worker.link(Other)
"""


def write(folder: Path, before: str = "", after: str = "") -> None:
    head, _, rest = WORKER.partition("@service")
    (folder / "graph.py").write_text(f"{head}{before}\n@service{rest}{after}\n")


# The import of a graph happens in a process of its own.


@pytest.mark.parametrize(
    ("line", "how"),
    [
        ("os._exit(0)", "ended with status 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    ],
)
async def test_a_graph_that_ends_its_process_is_a_failure(serve: Serve, tmp_path: Path, line: str, how: str) -> None:
    write(tmp_path, before=line)
    serving = await serve("graph:Other")
    assert await serving.exit_status() == 1
    assert serving.err == [f"error: importing graph:Other ended the process that did it: {how}"]


async def test_what_the_import_prints_is_told_apart(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, before="print('hello'); os.close(1)")
    serving = await serve("graph:Other", "--dry-run")
    assert await serving.exit_status() == 0
    assert serving.out[:3] == ["[graph] hello", "Services:", "  Other: 1 worker"]


async def test_what_the_import_has_started_ends_with_it(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, before="print('child', subprocess.Popen(['sleep', '600']).pid)")
    serving = await serve("graph:Other", "--dry-run")
    child = await serving.line(r"^\[graph\] child (\d+)")
    assert await serving.exit_status() == 0
    await all_gone([int(child[1])])


@pytest.mark.parametrize("line", ["time.sleep(600)", "while True: pass"])
async def test_ctrl_c_while_a_graph_is_imported_ends_everything(serve: Serve, tmp_path: Path, line: str) -> None:
    write(tmp_path, before=f"print('importing')\n{line}")
    serving = await serve("graph:Other")
    await serving.line("importing")
    pids = serving.worker_pids()
    assert pids
    serving.interrupt()
    assert await serving.exit_status() == 130
    assert serving.err == []
    await all_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_any_signal_while_a_graph_is_imported_ends_everything(
    serve: Serve, tmp_path: Path, number: signal.Signals
) -> None:
    write(tmp_path, before="print('importing')\ntime.sleep(600)")
    serving = await serve("graph:Other")
    await serving.line("importing")
    pids = serving.worker_pids()
    serving.process.send_signal(number)
    assert await serving.exit_status() == 130  # not by the signal, which process 1 of a container would not hear
    assert serving.err == []
    await all_gone(pids)


async def test_an_importing_process_ends_when_its_parent_is_killed(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, before="print('importing')\ntime.sleep(600)")
    serving = await serve("graph:Other")
    await serving.line("importing")
    pids = serving.worker_pids()
    serving.process.kill()
    await serving.process.wait()
    await all_gone(pids)


async def test_threads_that_do_not_end_do_not_hold_a_worker(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, before="threading.Thread(target=time.sleep, args=(600,), name='pump').start()")
    serving = await serve("graph:Other")
    await serving.ready()
    serving.interrupt()
    assert await serving.exit_status() == 0
    await serving.line(r"^\[Other:1\] ending without threads that do not end: pump$")


# What is wrong, in one line.


async def test_a_failed_worker_ends_although_its_atexit_does_not(serve: Serve, tmp_path: Path) -> None:
    failing = "@service\nclass Failing:\n    def __init__(self):\n        raise ValueError('no such model')"
    write(tmp_path, before="import atexit; atexit.register(time.sleep, 600)", after=failing)
    serving = await serve("graph:Failing")
    assert await serving.exit_status() == 1
    assert "[Failing:1] ending without functions of atexit that do not end" in serving.err
    assert re.match(r"error: Failing:1 failed to start: ValueError: no such model", serving.err[-1])


async def test_a_parameter_without_a_value_is_named_once(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, after="Needy.inner.start = async_on_start(lambda self: None)")
    serving = await serve("graph:Needy", "--Needy.model=m")
    assert await serving.exit_status() == 2
    [line] = serving.err
    assert line.startswith("error: Needy cannot be built without 'path'")


async def test_a_hook_that_is_cancelled_is_a_failure_with_a_reason(serve: Serve, tmp_path: Path) -> None:
    write(
        tmp_path,
        before="@service\nclass Hook:\n @async_on_start\n async def start(self): raise asyncio.CancelledError",
    )
    serving = await serve("graph:Hook")
    assert await serving.exit_status() == 1
    await serving.line(r"^error: Hook:1 failed to start: .*CancelledError: \(no message\) \(graph\.py:\d+ in start\)$")
    assert len(serving.err) == 1


async def test_a_section_for_an_unknown_service_is_a_usage_error(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path)
    serving = await serve("graph:Worker", "--Workr.x=1")
    assert await serving.exit_status() == 2
    assert serving.err == ["error: --Workr.x: unknown service 'Workr'; did you mean 'Worker'?"]


async def test_what_has_no_effect_is_a_warning(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path)
    serving = await serve("graph:Worker", "--Needy.x=1", "--Worker.tempereture=1", "--port", "9", "--dry-run")
    assert await serving.exit_status() == 0
    assert serving.err == [
        "warning: --Needy.x: graph:Worker does not run Needy",
        "warning: --Worker.tempereture: this is no parameter of Worker; is 'temperature' meant?",
        "warning: --host and --port have no effect: no service of this graph serves HTTP",
    ]


@pytest.mark.parametrize(("variable", "value"), [("DYN_DISCOVERY", "memory:"), ("DYN_REQUEST_PLANE", "inproc:")])
async def test_planes_of_one_process_are_refused(serve: Serve, tmp_path: Path, variable: str, value: str) -> None:
    write(tmp_path)
    serving = await serve("graph:Worker", **{variable: value})
    assert await serving.exit_status() == 2
    assert serving.err == [
        f"error: {variable}={value} ends at the border of a process, and each worker is one: unset it"
    ]


# Where little is as usual.


async def test_it_runs_with_all_standard_streams_closed(tmp_path: Path) -> None:
    write(tmp_path, before="open('imported', 'a').write('x')")
    command = f"exec {sys.executable} -m dynamo.cli serve graph:Other >&- 2>&- <&-"
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, cwd=tmp_path, env=environment_of(tmp_path / "discovery"), start_new_session=True
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (tmp_path / "imported").exists() or (tmp_path / "imported").read_text() != "xx":
                assert process.returncode is None
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_an_argument_that_is_not_utf8_is_named_as_it_can_be(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path)
    serving = await serve("graph:Worker", "--\udcff.x=1", "--Work\udcff.x=1")
    assert await serving.exit_status() == 2
    assert r"\udcff" in serving.text


GONE = "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
NO_SIGCHLD = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"


@pytest.mark.parametrize(
    ("first", "status", "err"),
    [
        (GONE, 2, "error: the working directory . cannot be used: No such file or directory\n"),
        (NO_SIGCHLD, 1, "error: importing graph:Other ended the process that did it: ended with status 3\n"),
    ],
)
async def test_what_its_parent_has_left_it_is_coped_with(tmp_path: Path, first: str, status: int, err: str) -> None:
    write(tmp_path, before="os._exit(3)")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import os, signal, sys; {first}; os.execv(sys.executable, sys.argv[1:])",
        *(sys.executable, "-m", "dynamo.cli", "serve", "graph:Other"),
        cwd=tmp_path,
        env=environment_of(tmp_path / "discovery"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        _, text = await process.communicate()
    assert (process.returncode, text.decode()) == (status, err)


async def test_a_fixed_system_port_and_reloads_exclude_each_other(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path)
    serving = await serve("graph:Other", "--reload", DYN_SYSTEM_PORT="9090")
    assert await serving.exit_status() == 2
    assert re.match(r"error: --reload .* cannot share the port 9090 .* set DYN_SYSTEM_PORT=0", serving.err[0])
