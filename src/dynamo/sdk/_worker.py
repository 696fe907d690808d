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
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from dynamo._core.errors import CannotConnect, ConfigError, DynamoError
from dynamo.runtime._blame import blame, user_traceback
from dynamo.sdk._orphans import adopt_orphans, kill_descendants
from dynamo.sdk._status import Ready, Starting, StatusPipe, Stopped

if TYPE_CHECKING:
    from dynamo.sdk._service import Service

#: How long threads that the user's code has left may go on when the worker has ended.
THREADS_GRACE_S = 2.0
#: How long what the user's code has registered with `atexit` may take, all of it together.
ATEXIT_GRACE_S = 5.0
#: How long a worker that others stand in for may still be called by those who have not heard that it has unregistered.
LINGER_S = 0.5


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says."""

    graph: str
    service_name: str | None
    worker_id: int
    verbose: bool
    status_fd: int
    http_fd: int | None


def main(argv: list[str]) -> int:
    """Run one worker; return its exit status."""
    arguments = _parse(argv)
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM):  # until the loop runs there is nothing to end in an orderly way
        signal.signal(number, _end_at_once)
    status = StatusPipe(arguments.status_fd)
    status.watch_parent()
    try:
        from dynamo.runtime._logging import set_up_logging

        set_up_logging(os.environ)
        _run(arguments, status)
    except BaseException as error:  # the user's code may raise SystemExit and CancelledError, too
        if arguments.verbose:
            _print_traceback(error)
        from dynamo.sdk._loader import BadGraph

        reason = str(error) if isinstance(error, DynamoError) else blame(error)
        status.fail(reason, is_usage=isinstance(error, BadGraph), is_away=_is_of_a_server_away(error))
        return 1
    return 0


def _run(arguments: Arguments, status: StatusPipe) -> None:
    from dynamo.sdk._graph import outline, reachable
    from dynamo.sdk._loader import load_service

    status.send(Starting(f"importing {arguments.graph}"))
    entry = load_service(arguments.graph, os.getcwd())
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

    loop = asyncio.get_running_loop()
    ending, leaving = asyncio.Event(), asyncio.Event()  # now, and as soon as nobody can be about to call

    def end() -> None:
        ending.set()
        leaving.set()

    def own_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            loop.add_signal_handler(number, end)

    own_signals()
    status.on_retire = partial(loop.call_soon_threadsafe, leaving.set)
    async with DistributedRuntime() as runtime:
        runtime.primary_token().add_callback(end)
        runner = ServiceRunner(
            service,
            runtime,
            worker_id=arguments.worker_id,
            http_socket=None if arguments.http_fd is None else socket.socket(fileno=arguments.http_fd),
            report=lambda phase: status.send(Starting(phase)),
        )
        try:
            if await _unless(leaving, runner.start()):
                own_signals()  # an engine may have set handlers of its own, which end the process where it stands
                status.send(Ready())
                settle()
                await leaving.wait()
            if not ending.is_set():
                await runner.withdraw()
                await _unless(ending, asyncio.sleep(LINGER_S))
        except BaseException:
            with contextlib.suppress(Exception):  # stop() has logged it, and what start() raised says more
                await runner.stop()
            raise
        await runner.stop()
        status.send(Stopped())


async def _unless(ending: asyncio.Event, work: Coroutine[object, object, object]) -> bool:
    """Run `work` to its end and return True, or give it up and return False when `ending` is set."""
    working = asyncio.ensure_future(work)
    end = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait([working, end], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        working.cancel()
        end.cancel()
        await asyncio.gather(working, end, return_exceptions=True)


def _is_of_a_server_away(error: BaseException) -> bool:
    """Whether it comes of a server that a setting names and nobody reaches: not a peer, which has an address."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, CannotConnect) and "setting" in current.details:
            return True
        current = current.__cause__
    return False


def _print_traceback(error: BaseException) -> None:
    """Print where what went wrong began, which our own errors hold as their cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    print(user_traceback(error), end="", file=sys.stderr)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process as the signal would by itself, and first what it has started."""
    kill_descendants()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _parse(argv: list[str]) -> Arguments:
    parser = argparse.ArgumentParser(prog="python -m dynamo.sdk._worker")
    parser.add_argument("graph")
    parser.add_argument("--service-name")
    parser.add_argument("--worker-id", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print the traceback of what goes wrong")
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--http-fd", type=int)
    return Arguments(**vars(parser.parse_args(argv)))


def _leave(exit_status: int) -> NoReturn:
    """End the process, with the processes that it has started and without the threads that do not end."""
    deadline = time.monotonic() + THREADS_GRACE_S
    threads = [
        thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    kill_descendants()  # now: its parent, which would do so when it has ended, may be gone
    if left := [thread.name for thread in threads if thread.is_alive()]:
        print(f"ending without threads that do not end: {', '.join(left)}", file=sys.stderr, flush=True)
        os._exit(exit_status)
    bound = threading.Timer(ATEXIT_GRACE_S, _leave_atexit, [exit_status])
    bound.daemon = True
    bound.start()
    sys.exit(exit_status)


def _leave_atexit(exit_status: int) -> None:
    print("ending without functions of atexit that do not end", file=sys.stderr, flush=True)
    os._exit(exit_status)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
