"""One worker of a service, as a process: `python -m dynamo.sdk._worker GRAPH --service-name S --worker-id N`.

`dynamo serve` starts it, with the configuration and the variables of the service in its environment. It
ends on SIGTERM or Ctrl-C, and when the process that started it is gone. Without `--service-name` it serves
nothing, and only tells what the graph is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from dynamo._core.errors import ConfigError, DynamoError
from dynamo.sdk._blame import blame, user_traceback
from dynamo.sdk._status import Ready, Starting, StatusPipe

if TYPE_CHECKING:
    from dynamo.sdk._service import Service

#: How long threads that the user's code has left may go on when the worker has ended.
THREADS_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says."""

    graph: str
    service_name: str | None
    worker_id: int
    status_fd: int
    http_fd: int | None


def main(argv: list[str]) -> int:
    """Run one worker; return its exit status."""
    arguments = _parse(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the loop runs there is nothing to end in an orderly way
    status = StatusPipe(arguments.status_fd)
    status.watch_parent()
    try:
        from dynamo.runtime._logging import set_up_logging

        set_up_logging(os.environ)
        _run(arguments, status)
    except DynamoError as error:
        status.fail(str(error))
        return 1
    except BaseException as error:  # the user's code may raise SystemExit and CancelledError, too
        status.fail(blame(error))
        print(user_traceback(error), end="", file=sys.stderr)
        return 1
    return 0


def _run(arguments: Arguments, status: StatusPipe) -> None:
    from dynamo.sdk._graph import outline, reachable
    from dynamo.sdk._loader import BadGraph, load_service

    status.send(Starting(f"importing {arguments.graph}"))
    try:
        entry = load_service(arguments.graph, os.getcwd())
    except BadGraph as error:
        status.fail(str(error), is_usage=True)
        return
    if arguments.service_name is None:
        status.send(outline(entry))
        return
    services = {service.name: service for service in reachable(entry)}
    if arguments.service_name not in services:
        raise ConfigError(f"Service {arguments.service_name} not found in {arguments.graph}; it has {list(services)}")
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(services[arguments.service_name], arguments, status))


async def _serve(service: Service[object], arguments: Arguments, status: StatusPipe) -> None:
    """Serve until a signal comes or the runtime ends."""
    from dynamo.runtime import DistributedRuntime
    from dynamo.runtime._process import settle
    from dynamo.sdk._runner import ServiceRunner

    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with DistributedRuntime() as runtime:
        runtime.primary_token().add_callback(ending.set)
        runner = ServiceRunner(
            service,
            runtime,
            worker_id=arguments.worker_id,
            http_socket=None if arguments.http_fd is None else socket.socket(fileno=arguments.http_fd),
            report=lambda phase: status.send(Starting(phase)),
        )
        try:
            if await _unless(ending, runner.start()):
                status.send(Ready())
                settle()
                await ending.wait()
        except BaseException:
            with contextlib.suppress(Exception):  # stop() has logged it, and what start() raised says more
                await runner.stop()
            raise
        await runner.stop()


async def _unless(ending: asyncio.Event, starting: Coroutine[object, object, None]) -> bool:
    """Run `starting` to its end and return True, or give it up and return False when `ending` is set."""
    work = asyncio.ensure_future(starting)
    end = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait([work, end], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        return work.done()
    finally:
        work.cancel()
        end.cancel()
        await asyncio.gather(work, end, return_exceptions=True)


def _parse(argv: list[str]) -> Arguments:
    parser = argparse.ArgumentParser(prog="python -m dynamo.sdk._worker")
    parser.add_argument("graph")
    parser.add_argument("--service-name")
    parser.add_argument("--worker-id", type=int, default=1)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--http-fd", type=int)
    return Arguments(**vars(parser.parse_args(argv)))


def _leave(exit_status: int) -> NoReturn:
    """End the process, without the threads of the user's code that do not end when everything else has."""
    deadline = time.monotonic() + THREADS_GRACE_S
    threads = [
        thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if left := [thread.name for thread in threads if thread.is_alive()]:
        print(f"ending without threads that do not end: {', '.join(left)}", file=sys.stderr, flush=True)
        os._exit(exit_status)
    sys.exit(exit_status)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
