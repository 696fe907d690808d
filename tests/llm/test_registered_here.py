"""A model that nobody serves, or that is not there, is told of in the log of the process that speaks of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.llm.scene import World

from dynamo._core.discovery.base import LEASE_TTL_S
from dynamo._core.virtual_clock import run_virtually
from dynamo.llm import EngineOutput, ModelConfig, register_llm, serve_engine, unregister_llm
from dynamo.llm._registered_here import SERVED_WITHIN_S
from dynamo.runtime import Endpoint


class Silent:
    """An engine that has nothing to say."""

    async def generate(self, request: object, context: object):  # type: ignore[no-untyped-def]
        yield EngineOutput(finish_reason="stop")


def said(caplog: pytest.LogCaptureFixture, program: Callable[[Endpoint], Awaitable[object]]) -> list[str]:
    """What the log warns of when a program runs, and goes on for as long as it is waited for an endpoint."""

    async def run() -> None:
        async with World().runtime() as runtime:
            await program(runtime.endpoint("test.worker.generate"))
            await asyncio.sleep(2 * SERVED_WITHIN_S)

    with caplog.at_level(logging.WARNING):
        run_virtually(run())
    return [record.getMessage() for record in caplog.records if record.name.startswith("dynamo.llm")]


async def register(endpoint: Endpoint, model: Path) -> None:
    await register_llm(endpoint, ModelConfig(path=model, name="tiny"))


def test_a_model_that_nobody_serves_is_told_of(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def program(endpoint: Endpoint) -> None:
        await register(endpoint, tiny_model)
        await register(endpoint, tiny_model)

    [text] = said(caplog, program)
    assert text.startswith(
        "the model 'tiny' was registered at test/worker/generate 10 s ago, and this process does not"
    )


def test_serving_after_registering_is_as_good_as_before(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def before(endpoint: Endpoint) -> None:
        await serve_engine(endpoint, Silent())
        await register(endpoint, tiny_model)

    async def after(endpoint: Endpoint) -> None:
        await register(endpoint, tiny_model)
        await asyncio.sleep(SERVED_WITHIN_S / 2)
        await serve_engine(endpoint, Silent())

    assert said(caplog, before) + said(caplog, after) == []


def test_what_was_taken_back_need_not_be_served(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def program(endpoint: Endpoint) -> None:
        await register(endpoint, tiny_model)
        await unregister_llm(endpoint)

    assert said(caplog, program) == []


def test_a_process_that_ends_is_not_blamed(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def program(endpoint: Endpoint) -> None:
        await register(endpoint, tiny_model)
        endpoint.runtime.shutdown()

    assert said(caplog, program) == []


def test_taking_back_what_is_not_there_is_told_of(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def program(endpoint: Endpoint) -> None:
        await register(endpoint, tiny_model)
        await unregister_llm(endpoint)
        await unregister_llm(endpoint)

    [text] = said(caplog, program)
    assert text == "this process has no model registered at test/worker/generate: there was nothing to unregister"


def test_workers_of_one_process_are_told_apart(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def program(endpoint: Endpoint) -> None:
        runtime = endpoint.runtime
        workers = [endpoint, Endpoint(runtime, endpoint.id, await runtime.grant_custom_lease(LEASE_TTL_S))]
        for worker in workers:
            await serve_engine(worker, Silent())
            await register(worker, tiny_model)
        for worker in workers:
            await unregister_llm(worker)

    assert said(caplog, program) == []
