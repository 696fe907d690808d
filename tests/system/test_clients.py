"""Clients that leave, half-close or read slowly: the work behind them ends, and others notice nothing."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

from tests.system.chaos_runs import disconnects, percentile
from tests.system.cluster import Cluster, cluster
from tests.system.exact import assert_exact
from tests.system.fault_proxy import fault_proxy
from tests.system.programs import DEADLINE_S, until
from tests.system.streams import ask, chat_body, client_of

ENGINE_ENDS_S = 1.0
GROWTH_BYTES_MAX = 64 << 20
#: Clients that send something and then nothing more.
NUM_SLOW = 200


def _port(made: Cluster) -> int:
    port = made.client.base_url.port
    assert port is not None
    return port


async def test_clients_that_leave_free_the_engine_within_a_second_and_leak_nothing(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model) as made:
        outcome = await disconnects(made, 75, random.Random(1))
        assert len(outcome.pauses_s) == 75
        assert percentile(outcome.pauses_s, 99) < ENGINE_ENDS_S
        assert outcome.leaks == []


async def test_a_client_that_leaves_before_the_first_token_ends_the_prefill(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=0) as made:
        worker = await made.start_worker("--fault", "hang")
        await made.routable(1)
        asking = asyncio.create_task(made.ask("impatient", 10))
        async with asyncio.timeout(DEADLINE_S):
            while await worker.inflight(made.client) != 1:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        asking.cancel()
        async with asyncio.timeout(ENGINE_ENDS_S):
            await made.idle()


async def test_a_client_that_half_closes_is_not_forgotten(tmp_path: Path, tiny_model: Path) -> None:
    """It may be served to the end or be taken for gone; what it asked for never goes on without it."""
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(made))
        body = json.dumps(chat_body("half", 100)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"data: ")
        writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            await reader.read()
            await made.idle()
        writer.close()


async def test_clients_that_never_finish_what_they_ask_hold_up_nobody(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        fds = made.frontend.num_fds()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        slow = []
        for n in range(NUM_SLOW):
            _, writer = await asyncio.open_connection("127.0.0.1", _port(made))
            # One half of them stops in the head, and the other in the body.
            writer.write(head if n % 2 else head + b'Content-Length: 1000\r\n\r\n{"model"')
            slow.append(writer)
        await until(lambda: made.frontend.num_fds() >= fds + NUM_SLOW)
        for n in range(10):
            assert_exact(await made.ask(f"prompt {n}", 10), f"prompt {n}", 10)
        for writer in slow:
            writer.close()
        await until(lambda: made.frontend.num_fds() < fds + NUM_SLOW // 4)


async def test_a_slow_reader_holds_up_nobody_else_and_costs_little_memory(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=0) as made:
        await made.start_worker("--token-delay-s", "0")
        await made.routable(1)
        before = made.frontend.rss_bytes()
        async with fault_proxy(_port(made)) as proxy, client_of(f"http://127.0.0.1:{proxy.port}") as slow:
            begun = asyncio.Event()
            asking = asyncio.create_task(ask(slow, "slow", 4000, on_chunk=lambda _: begun.set(), n=16))
            await begun.wait()
            proxy.to_caller.bytes_per_s = 1
            for n in range(10):
                assert_exact(await made.ask(f"fast {n}", 200), f"fast {n}", 200)
            assert (await made.health()).active_requests == 1, "the slow one is not done"
            assert made.frontend.rss_bytes() - before < GROWTH_BYTES_MAX
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await made.idle()
