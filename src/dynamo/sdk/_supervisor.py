"""The parent of a graph's workers: starts them, says when all are ready, and ends them in order.

Each worker leads a process group of its own, so that Ctrl-C in a terminal reaches only this process,
which then ends the callers before the called. Nothing that was started is left running.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Iterable

from dynamo._core.errors import ConfigError
from dynamo.sdk._console import Console
from dynamo.sdk._plan import HttpAddress, Plan, PlannedService
from dynamo.sdk._process import PROGRESS_S, WorkerProcess
from dynamo.sdk._status import START_TIMEOUT_S, Failed, Starting

#: How long an orderly end may take, for all workers together, before they are killed.
STOP_TIMEOUT_S = 30.0
#: How long the kernel may take to end a killed process.
KILL_TIMEOUT_S = 5.0

OK, FAILED, INTERRUPTED = 0, 1, 130


async def supervise(plan: Plan, console: Console) -> int:
    """Run the plan until a signal comes or it fails; return the exit status for the process."""
    sockets = bind_sockets(plan.services)
    supervisor = Supervisor(plan, console, sockets)
    loop = asyncio.get_running_loop()
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, supervisor.on_signal)
    try:
        return await supervisor.run()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def bind_sockets(services: Iterable[PlannedService]) -> dict[str, socket.socket]:
    """Bind a socket for every service that serves HTTP; its workers share it.

    It is bound here, and not yet listened on, so that a port in use is known before anything is started.
    """
    sockets: dict[str, socket.socket] = {}
    for service in services:
        if service.http is not None:
            try:
                sockets[service.name] = _bound(service.http)
            except OSError as error:
                for bound in sockets.values():
                    bound.close()
                raise ConfigError(_cannot_listen(service.name, service.http, error)) from error
    return sockets


class Supervisor:
    """Owns the worker processes of one graph."""

    def __init__(self, plan: Plan, console: Console, sockets: dict[str, socket.socket]) -> None:
        self._plan = plan
        self._console = console
        self._sockets = sockets
        self._changed = asyncio.Event()  # a worker or a signal has something to say
        self._workers_of = {
            service.name: [self._worker(service, number) for number in range(1, service.workers + 1)]
            for service in plan.services
        }
        self._workers = [worker for workers in self._workers_of.values() for worker in workers]
        # The mutable state: the tasks that run the workers, how often a signal asked for the end, and why
        # something ended, so that what makes several workers end is told once.
        self._running: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._ending = False
        self._forced = False
        self._told: set[str] = set()

    def _worker(self, service: PlannedService, number: int) -> WorkerProcess:
        arguments = [self._plan.graph, "--service-name", service.name, "--worker-id", str(number)]
        return WorkerProcess(f"{service.name}:{number}", arguments, self._console, self._on_change)

    def on_signal(self) -> None:
        """The first signal asks for an orderly end, the second ends everything at once."""
        if self._ending:
            self._forced = True
        else:
            self._console.say("stopping; the same again ends everything at once")
        self._ending = True
        self._on_change()

    def _on_change(self) -> None:
        self._changed.set()

    async def run(self) -> int:
        """Start, watch, and stop."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        status = FAILED
        try:
            self._start()
            if await self._become_ready():
                self._console.say(self._ready_line(loop.time() - started_at))
                await self._watch()
            status = OK
        except ConfigError as error:
            self._console.error(error.message)
        finally:
            stopped_well = await self._stop()
        if self._forced:
            return INTERRUPTED
        return status if stopped_well else FAILED

    # Start.

    def _start(self) -> None:
        for service in self._plan.services:
            environment = {**os.environ, **service.envs, **self._plan.environment}
            for worker in self._workers_of[service.name]:
                run = worker.run(self._plan.working_dir, environment, self._sockets.get(service.name))
                self._running[worker] = asyncio.create_task(run, name=worker.label)

    async def _become_ready(self) -> bool:
        """Wait until all workers are ready; False if a signal came first. Raises `ConfigError` if one fails."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not self._ending:
            for worker in self._workers:
                if worker.ended.is_set() or isinstance(worker.report, Failed):
                    await self._until_ended([worker], deadline)  # so that all it prints stands before our line
                    self._told.add(worker.how_it_ended)
                    raise ConfigError(f"{worker.label} failed to start: {worker.how_it_ended}")
            if all(worker.is_ready for worker in self._workers):
                return True
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigError(f"not ready after {START_TIMEOUT_S:.0f} s: {self._waiting_for()}")
            if not await self._wait_for_change(PROGRESS_S):
                self._console.say(f"still starting: {self._waiting_for()}")
        return False

    def _waiting_for(self) -> str:
        return ", ".join(
            f"{worker.label} ({worker.report.phase})" for worker in self._workers if isinstance(worker.report, Starting)
        )

    def _ready_line(self, elapsed_s: float) -> str:
        parts = []
        for service in self._plan.services:
            count = f" x{service.workers}" if service.workers > 1 else ""
            parts.append(f"{service.name}{count}{self._url_of(service)}")
        return f"ready in {elapsed_s:.1f} s: {', '.join(parts)}"

    def _url_of(self, service: PlannedService) -> str:
        if service.http is None:
            return ""
        port = self._sockets[service.name].getsockname()[1]
        return f" at {HttpAddress(service.http.host, port).url}"

    # Watch.

    async def _watch(self) -> None:
        """Wait for a signal. Raises `ConfigError` when a service has no worker left."""
        gone: set[WorkerProcess] = set()
        while not self._ending:
            for name, workers in self._workers_of.items():
                for worker in workers:
                    if worker.ended.is_set() and worker not in gone:
                        gone.add(worker)
                        self._report_crash(name, worker)
            await self._wait_for_change()

    def _report_crash(self, name: str, worker: WorkerProcess) -> None:
        peers = self._workers_of[name]
        left = [peer for peer in peers if not peer.ended.is_set()]
        if not left:
            raise ConfigError(f"{worker.label} is gone and {name} has no worker left: {worker.how_it_ended}")
        self._console.error(f"{worker.label} is gone, {len(left)} of {len(peers)} workers left: {worker.how_it_ended}")

    async def _wait_for_change(self, timeout_s: float | None = None) -> bool:
        """Wait until a worker or a signal has something to say; False after `timeout_s`."""
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    # Stop.

    async def _stop(self) -> bool:
        """End the workers, callers first. True if each of them ended by itself, and well."""
        deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
        well = True
        for group in reversed(self._plan.callees_first):
            running = [worker for name in group for worker in self._workers_of[name] if not worker.ended.is_set()]
            for worker in running:
                worker.terminate()
            await self._until_ended(running, deadline)
            for worker in running:
                well = self._ended_well(worker) and well
        await self._kill_the_rest()
        for bound in self._sockets.values():
            bound.close()
        return well

    async def _until_ended(self, workers: list[WorkerProcess], deadline: float) -> None:
        """Wait until the workers have ended, a second signal comes, or the time is up."""
        while not self._forced and not all(worker.ended.is_set() for worker in workers):
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or not await self._wait_for_change(left_s):
                return

    def _ended_well(self, worker: WorkerProcess) -> bool:
        if not worker.ended.is_set():
            if not self._forced:
                self._console.error(f"{worker.label} does not end; killing it")
            return False
        if worker.exit_status in (0, -signal.SIGTERM):
            return True
        if worker.how_it_ended not in self._told:
            self._console.error(f"{worker.label} did not end well: {worker.how_it_ended}")
        return False

    async def _kill_the_rest(self) -> None:
        for worker in self._running:
            if not worker.ended.is_set():
                worker.kill()
        if not self._running:
            return
        ended, stuck = await asyncio.wait(self._running.values(), timeout=KILL_TIMEOUT_S)
        for task in stuck:
            self._console.error(f"{task.get_name()} cannot be killed; the kernel holds it")
            task.cancel()
        for task in ended:
            task.result()


def _cannot_listen(name: str, address: HttpAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} of {address.host} is in use, so {name} cannot listen on it: "
            f"stop what uses it, or choose another port with --port or {name}.port"
        )
    return f"{name} cannot listen on port {address.port} of {address.host}: {error.strerror or error}"


def _bound(address: HttpAddress) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except BaseException:
        bound.close()
        raise
    return bound
