"""Workers that register agree, whichever discovery they find each other in: each is a party of its own to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.conformance.discovery import KINDS, etcd_url, open_two
from tests.etcd_server import etcd

from dynamo._core.address import MODEL_CARDS
from dynamo._core.discovery import Discovery
from dynamo._core.discovery.etcd import EtcdDiscovery
from dynamo._core.errors import CannotConnect, ConfigError
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.llm import ModelConfig, register_llm, unregister_llm
from dynamo.llm._model_card import ModelCard
from dynamo.llm._model_config import OnConflict
from dynamo.runtime import DistributedRuntime, Endpoint

__all__ = ["etcd_url"]

DEADLINE_S = 60.0


class Host:
    """Makes processes that find each other in one kind of discovery, and looks at what is there."""

    def __init__(self, kind: str, directory: Path, etcd_url: str, stack: AsyncExitStack) -> None:
        self._kind, self._directory, self._etcd_url = kind, directory, etcd_url
        self._stack = stack
        self._observer = self._open()

    async def process(self) -> Endpoint:
        """Where a process of its own may register a worker."""
        discovery = self._observer if self._kind == "memory" else self._open()
        runtime = DistributedRuntime(discovery=discovery, request_plane=InprocPlane())
        return (await self._stack.enter_async_context(runtime)).endpoint("a.b.c")

    async def cards(self) -> list[ModelCard]:
        found = await self._observer.get_prefix(MODEL_CARDS)
        return [ModelCard.from_json(value) for value in found.values()]

    def _open(self) -> Discovery:
        discovery, _ = open_two(self._kind, self._directory, self._etcd_url)
        self._stack.push_async_callback(discovery.close)
        return discovery


@pytest.fixture(params=KINDS)
async def host(request: pytest.FixtureRequest, tmp_path: Path, etcd_url: str) -> AsyncIterator[Host]:
    async with AsyncExitStack() as stack:
        yield Host(request.param, tmp_path / "discovery", etcd_url, stack)


async def register(endpoint: Endpoint, model: Path, size: int, on_conflict: OnConflict = "refuse") -> None:
    config = ModelConfig(path=model, kv_cache_block_size=size, on_conflict=on_conflict)
    await register_llm(endpoint, config)


async def test_one_that_differs_is_refused_with_both_values_and_leaves_no_card(tiny_model: Path, host: Host) -> None:
    first, second = await host.process(), await host.process()
    await register(first, tiny_model, 16)
    theirs = f"worker {first.lease_id():x} is 16"
    with pytest.raises(ConfigError, match=f"its KV cache block size is 32, and that of {theirs}"):
        await register(second, tiny_model, 32)
    assert [card.kv_cache_block_size for card in await host.cards()] == [16]
    await unregister_llm(first)
    await register(second, tiny_model, 32)
    assert [card.kv_cache_block_size for card in await host.cards()] == [32]


async def test_one_that_differs_waits_if_it_shall_and_then_is_whom_others_must_be_like(
    tiny_model: Path, host: Host
) -> None:
    first, second, third = [await host.process() for _ in range(3)]
    await register(first, tiny_model, 16)
    await register(second, tiny_model, 32, "wait")
    stand = {(card.kv_cache_block_size, card.waits) for card in await host.cards()}
    assert stand == {(16, False), (32, True)}
    await first.runtime.close()
    with pytest.raises(ConfigError, match="its KV cache block size is 16"):
        await register(third, tiny_model, 16)
    await register(third, tiny_model, 32)


@pytest.mark.parametrize("seed", range(5))
async def test_of_workers_that_come_at_once_those_that_stand_are_alike(tiny_model: Path, host: Host, seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice((16, 32, 64)) for _ in range(5)]
    workers = [await host.process() for _ in sizes]

    async def come(worker: Endpoint, size: int) -> None:
        await asyncio.sleep(rng.choice((0, 0.002, 0.01)))
        await register(worker, tiny_model, size)

    async with asyncio.timeout(DEADLINE_S):
        outcomes = await asyncio.gather(*map(come, workers, sizes), return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, ConfigError) for outcome in outcomes)
    left = await host.cards()
    assert [card.is_settling for card in left] == [False] * outcomes.count(None)
    stood = {size for size, outcome in zip(sizes, outcomes, strict=True) if outcome is None}
    assert {card.kv_cache_block_size for card in left} == stood
    assert len(stood) == 1


@pytest.mark.parametrize("turns", [1, 3, 10, 30])
async def test_who_is_interrupted_leaves_no_card_and_is_in_nobodys_way(
    tiny_model: Path, host: Host, turns: int
) -> None:
    first, second = await host.process(), await host.process()
    interrupted = asyncio.ensure_future(register(first, tiny_model, 16))
    for _ in range(turns):
        await asyncio.sleep(0.002)
    interrupted.cancel()
    (done,), _ = await asyncio.wait([interrupted])
    if done.cancelled():
        assert await host.cards() == []
        await register(second, tiny_model, 32)


async def test_who_waits_for_one_that_settles_goes_on_when_that_process_has_gone(tiny_model: Path, host: Host) -> None:
    workers = [await host.process(), await host.process()]
    lower, higher = sorted(workers, key=Endpoint.lease_id)
    # It says that it settles, and does no more: this one waits for what becomes of it.
    stuck = ModelCard.from_local_path(tiny_model, kv_cache_block_size=64).to_json()
    stuck = stuck.replace(b'"is_settling":false', b'"is_settling":true')
    await higher.runtime.discovery.put(higher.id.model_card_key(higher.lease_id()), stuck, higher.lease)
    waiting = asyncio.ensure_future(register(lower, tiny_model, 16))
    async with asyncio.timeout(DEADLINE_S):
        while len(await host.cards()) < 2:  # noqa: ASYNC110 - the worker that waits tells nobody
            await asyncio.sleep(0.005)
        assert not waiting.done()
        await higher.runtime.close()
        await waiting
    assert [card.kv_cache_block_size for card in await host.cards()] == [16]


async def test_a_card_of_before_is_put_back_if_the_new_one_is_refused(tiny_model: Path, host: Host) -> None:
    workers = [await host.process(), await host.process()]
    for worker in workers:
        await register(worker, tiny_model, 16)
    with pytest.raises(ConfigError, match="its KV cache block size is 32"):
        await register(workers[0], tiny_model, 32)
    assert [(card.kv_cache_block_size, card.is_settling) for card in await host.cards()] == [(16, False)] * 2


async def test_a_worker_whose_etcd_goes_away_while_it_settles_is_not_registered_when_that_is_back(
    tiny_model: Path, tmp_path: Path
) -> None:
    async with etcd(tmp_path / "etcd") as server, AsyncExitStack() as stack:

        class Leaving(EtcdDiscovery):
            async def get_prefix(self, prefix: str) -> dict[str, bytes]:
                if prefix.startswith(MODEL_CARDS) and await super().get_prefix(prefix):
                    await server.stop()
                return await super().get_prefix(prefix)

        leaving, observer = Leaving([server.url]), EtcdDiscovery([server.url])
        stack.push_async_callback(leaving.close)
        stack.push_async_callback(observer.close)
        runtime = await stack.enter_async_context(DistributedRuntime(discovery=leaving, request_plane=InprocPlane()))
        with pytest.raises(CannotConnect, match="no member of the etcd"):
            await register(runtime.endpoint("a.b.c"), tiny_model, 16)
        server.go_on()
        async with asyncio.timeout(DEADLINE_S):
            while await observer.get_prefix(MODEL_CARDS):  # noqa: ASYNC110 - it may be gone before a watch begins
                await asyncio.sleep(0.05)
