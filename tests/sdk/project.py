"""A user's folder: files as a document shows them, served by real processes and called from outside."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import AsyncExitStack
from pathlib import Path

from tests.cli.serving import DEADLINE_S, Serving, environment_of

from dynamo.runtime import Client, DistributedRuntime

#: Enough for every graph here, on a machine that has none.
GPUS = {"CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(32))}


class Project:
    """Files in a folder, and everything that is run there. It ends with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment_of(folder / "discovery")
        self._stack = AsyncExitStack()
        self._runtime: DistributedRuntime | None = None

    async def __aenter__(self) -> Project:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def write(self, **files: str) -> None:
        """Write modules, `name=text`, and YAML files, `name_yaml=text`."""
        for name, text in files.items():
            stem = name.removesuffix("_yaml")
            (self.folder / (f"{name}.py" if stem == name else f"{stem}.yaml")).write_text(text)

    async def start(self, *arguments: str, **variables: str) -> Serving:
        """Run `dynamo serve`, whatever becomes of it."""
        environment = {**self.environment, **variables}
        return await self._stack.enter_async_context(
            await Serving.start(*arguments, cwd=self.folder, environment=environment)
        )

    async def serve(self, *arguments: str, **variables: str) -> Serving:
        """Run `dynamo serve` and wait until it is ready."""
        serving = await self.start(*arguments, **variables)
        await serving.ready()
        return serving

    async def client(self, endpoint: str) -> Client:
        """Return a client of an endpoint that is served already."""
        if self._runtime is None:
            runtime = DistributedRuntime(discovery=self.environment["DYN_DISCOVERY"], request_plane="tcp:")
            self._runtime = await self._stack.enter_async_context(runtime)
        return await self._runtime.endpoint(endpoint).client()

    async def call(self, endpoint: str, request: object) -> list[object]:
        """Return every item of the response."""
        client = await self.client(endpoint)
        return [item async for item in await client.generate(request, annotated=False)]

    async def call_each(self, endpoint: str, request: object) -> list[object]:
        """Return the first item of every worker's response."""
        client = await self.client(endpoint)
        answers: list[object] = []
        for instance_id in client.instance_ids():
            answers += await (await client.direct(request, instance_id, annotated=False)).batch()
        return answers

    async def spawn(self, *arguments: str) -> Serving:
        """Start Python with these arguments; it ends with the test."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        return await self._stack.enter_async_context(Serving(process))

    async def python(self, *arguments: str) -> str:
        """Run a script to its end, which must be a good one; return what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=self.folder, env=self.environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert (process.returncode, err.decode()) == (0, "")
        return out.decode()
