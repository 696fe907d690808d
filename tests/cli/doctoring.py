"""`dynamo doctor` run by tests beside what it looks at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.cli.serving import environment_of
from typer.testing import CliRunner, Result

from dynamo._core.discovery.file import FileDiscovery
from dynamo.cli._app import app
from dynamo.llm import ModelConfig, register_llm
from dynamo.runtime import DistributedRuntime, Endpoint


async def doctor(discovery: Path, *arguments: str, **variables: str) -> Result:
    """Run the command beside what it looks at."""
    none = dict.fromkeys(("DYN_REQUEST_PLANE", "DYN_EVENT_PLANE", "DYN_WORK_QUEUE", "DYN_FRONTEND_URL"), "")
    environment = none | environment_of(discovery) | variables
    return await asyncio.to_thread(CliRunner().invoke, app, ["doctor", *arguments], env=environment)


def only(*areas: str) -> list[str]:
    return [word for area in areas for word in ("--only", area)]


def lines_of(result: Result, level: str) -> list[str]:
    """The lines of one level, without it."""
    assert "Traceback" not in result.output
    return [line.removeprefix(level).strip() for line in result.stdout.splitlines() if line.startswith(f"{level} ")]


async def serve_nothing(request: object) -> object:
    return None


@asynccontextmanager
async def worker(
    discovery: Path, model: Path, *, at: str = "ns.worker.generate", **card: object
) -> AsyncIterator[Endpoint]:
    """A worker in this process that others call by TCP; with a model."""
    runtime = DistributedRuntime(discovery=f"file://{discovery}", request_plane="tcp:", event_plane="inproc:")
    async with runtime:
        endpoint = runtime.endpoint(at)
        await endpoint.serve(serve_nothing)
        config = {"path": model, "name": "m", "on_conflict": "wait", **card}
        await register_llm(endpoint, ModelConfig.model_validate(config))
        yield endpoint


async def put(discovery: Path, key: str, value: bytes) -> None:
    """Have something stand in discovery."""
    store = FileDiscovery(str(discovery))
    await store.put(key, value)
    await store.close()
