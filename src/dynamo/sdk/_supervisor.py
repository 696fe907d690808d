"""The parent of a graph's workers: starts them, says when all are ready, keeps them running, and ends them.

Each worker leads a process group of its own, so that Ctrl-C in a terminal reaches only this process,
which then ends the callers before the called. Nothing that was started is left running.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from dynamo._core.errors import ConfigError
from dynamo._core.exit_status import FAILED, INTERRUPTED, OK
from dynamo.sdk._console import Console
from dynamo.sdk._end_signals import on_end_signals
from dynamo.sdk._generation import Generation, counted
from dynamo.sdk._orphans import Family
from dynamo.sdk._plan import Plan, PlannedService
from dynamo.sdk._process import Command, WorkerProcess
from dynamo.sdk._slot import RestartPolicy, Worker
from dynamo.sdk._sockets import Sockets

#: So many generations of workers that were replaced may still end their last requests when the next one starts.
RETIRING_MAX = 2
_FILES_SHOWN_MAX = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reloading:
    """What makes `dynamo serve` start edited code in place of what runs."""

    #: Calls what it is given with the files of each edit, for ever. Raises `ConfigError` if nothing can be watched.
    follow_edits: Callable[[Callable[[list[str]], None]], Coroutine[object, object, None]]
    #: Reads the graph and its configuration again. Raises `ConfigError` for what cannot work.
    plan: Callable[[], Awaitable[Plan]]


@dataclass(frozen=True, slots=True)
class Supervision:
    """How a plan is run."""

    #: What every worker gets, beside what the plan has for it.
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    #: When a worker that ended by itself is started again; None is never.
    restart: RestartPolicy | None = None
    reloading: Reloading | None = None
    #: When the command began, by the clock of the loop.
    began: float | None = None
    #: Whether workers print the traceback of what goes wrong.
    verbose: bool = False
    #: The children of this process.
    family: Family = field(default_factory=lambda: Family(adopts=False))


async def supervise(plan: Plan, console: Console, how: Supervision) -> int:
    """Run the plan until a signal comes or it fails; return the exit status for the process."""
    supervisor = Supervisor(plan, console, how)
    with on_end_signals(supervisor.on_signal):
        return await supervisor.run()


class Supervisor:
    """Owns the generations of a graph's workers: one, and while it reloads others beside it."""

    def __init__(self, plan: Plan, console: Console, how: Supervision) -> None:
        self._plan = plan
        self._console = console
        self._how = how
        self._sockets = Sockets()
        self._changed = asyncio.Event()  # a worker, a file or a signal has something to say
        # The mutable state: what serves, what is to replace it, and what ends its last requests; the tasks
        # beside, the files that were edited since, and how often a signal asked for the end.
        self._serving: Generation | None = None
        self._coming: Generation | None = None
        self._retiring: dict[Generation, asyncio.Task[bool]] = {}
        self._reload: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._edited: set[str] = set()
        self._ending = False
        self._forced = False

    def on_signal(self) -> None:
        """The first signal asks for an orderly end, the second ends everything at once."""
        if not self._ending:
            self._console.say("stopping; the same again ends everything at once")
        else:
            self._forced = True
            for generation in self._generations():
                generation.force()
        self._ending = True
        self._on_change()

    async def run(self) -> int:
        """Start, keep running, and stop."""
        status = FAILED
        try:
            if await self._start():
                await self._go_on()
            status = OK
        except ConfigError as error:
            self._console.error(error.message)
        finally:
            stopped_well = await self._stop()
        if self._forced:
            return INTERRUPTED
        return status if stopped_well else FAILED

    async def _start(self) -> bool:
        """Return when everything is ready; False if a signal came first."""
        clock = asyncio.get_running_loop().time
        began = clock() if self._how.began is None else self._how.began
        if self._how.reloading is not None:
            self._watch = self._task(self._how.reloading.follow_edits(self._on_edit))
        self._serving = self._generation(self._plan)
        starting = self._task(self._serving.start(began))
        try:
            while not (starting.done() or self._ending):
                self._collect()
                await self._wait_for_change()
            if not starting.done():
                return False
            starting.result()
        finally:
            starting.cancel()
            await asyncio.wait([starting])
        self._console.say(f"ready in {clock() - began:.1f} s: {self._summary(self._plan)}")
        return True

    async def _go_on(self) -> None:
        """Wait for a signal. Raises `ConfigError` when a service has no worker left."""
        while not self._ending:
            if self._serving is not None:
                self._serving.check()
            self._collect()
            if self._edited and self._how.reloading is not None and len(self._retiring) < RETIRING_MAX:
                edited, self._edited = self._edited, set()
                await self._cancel_reload()
                self._reload = self._task(self._replace(edited, self._how.reloading))
            await self._wait_for_change()

    def _collect(self) -> None:
        """Take what the tasks beside have to tell."""
        if self._watch is not None and self._watch.done():
            self._watch.result()
        if self._reload is not None and self._reload.done():
            reload, self._reload = self._reload, None
            reload.result()
        ended = [generation for generation, task in self._retiring.items() if task.done()]
        for generation in ended:
            self._retiring.pop(generation).result()
        if ended:
            self._sockets.keep(service for left in self._generations() for service in left.plan.services)

    # Reload.

    def _on_edit(self, files: list[str]) -> None:
        self._edited.update(files)
        self._on_change()

    async def _replace(self, edited: set[str], reloading: Reloading) -> None:
        """Start the edited graph beside what serves, and let it take over when it is ready."""
        began = asyncio.get_running_loop().time()
        self._console.say(f"{_shown(edited)} changed; reloading")
        try:
            plan = await reloading.plan()
            self._coming = self._generation(plan)
            await self._coming.start(began)
        except ConfigError as error:
            self._console.error(f"not reloaded, what runs goes on: {error.message}")
            self._retire(self._coming, others=self._serving)
        except BaseException:
            self._retire(self._coming, others=self._serving)
            raise
        else:
            before, self._serving = self._serving, self._coming
            elapsed_s = asyncio.get_running_loop().time() - began
            self._console.say(f"reloaded in {elapsed_s:.1f} s: {self._summary(plan)}")
            self._retire(before, others=self._serving)
        finally:
            self._coming = None

    def _retire(self, generation: Generation | None, others: Generation | None = None) -> None:
        """End a generation beside, whose services the `others` serve, too."""
        if generation is not None:
            if self._forced:
                generation.force()
            replaced = () if others is None else [service.name for service in others.plan.services]
            self._retiring[generation] = self._task(generation.stop(replaced))

    async def _cancel_reload(self) -> None:
        reload, self._reload = self._reload, None
        if reload is not None:
            reload.cancel()
            await asyncio.wait([reload])
            if not reload.cancelled():
                reload.result()

    # Stop.

    async def _stop(self) -> bool:
        """End everything. True if each worker ended by itself, and well."""
        outcomes: list[bool] = []
        # From the last line to the first, each whatever became of the others.
        async with AsyncExitStack() as ends:
            ends.callback(self._how.family.end_orphans)
            ends.callback(self._sockets.keep, [])  # whatever came before
            ends.push_async_callback(self._wait_for_the_end, outcomes)
            ends.push_async_callback(self._cancel_reload)
            ends.push_async_callback(self._cancel_watch)
        return all(outcomes)

    async def _cancel_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    async def _wait_for_the_end(self, outcomes: list[bool]) -> None:
        """End what serves, and wait for it and for all that ends already; then raise the first error."""
        if self._serving is not None:
            self._serving.start_no_more()
        self._retire(self._serving)
        # From its first step on, nothing is started any more. As long as the sockets were open here, clients
        # would connect to nobody while the workers finish what they have begun.
        await asyncio.sleep(0)
        self._sockets.keep([])
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)
        outcomes += [task.result() for task in self._retiring.values()]

    # Parts.

    def _generation(self, plan: Plan) -> Generation:
        sockets = self._sockets.bind(plan.services)

        def launch(service: PlannedService, number: int, on_change: Callable[[], None]) -> Worker:
            arguments = [plan.graph, "--service-name", service.name, "--worker-id", str(number)]
            command = Command(
                label=f"{service.name}:{number}",
                arguments=[*arguments, *(["--verbose"] if self._how.verbose else [])],
                working_dir=plan.working_dir,
                environment={**self._how.environment, **service.environment_of(number), **plan.environment},
                http=sockets.get(service.name),
            )
            return WorkerProcess(command, self._console, on_change, self._how.family)

        return Generation(plan, launch, self._console, self._on_change, self._how.restart)

    def _generations(self) -> list[Generation]:
        return [generation for generation in (self._serving, self._coming, *self._retiring) if generation is not None]

    def _summary(self, plan: Plan) -> str:
        urls = {service.name: self._sockets.url_of(service) for service in plan.services}
        return ", ".join(
            counted(service) + (f" at {url}" if (url := urls[service.name]) else "") for service in plan.services
        )

    def _task(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run `work` beside, and look again when it has ended."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._on_change())
        return task

    def _on_change(self) -> None:
        self._changed.set()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()


def _shown(files: set[str]) -> str:
    names = sorted(files)
    more = len(names) - _FILES_SHOWN_MAX
    return ", ".join(names[:_FILES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
