"""A router's index of simulated workers in processes of their own: events, late listeners, and ends."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.llm.kv.scene import DEADLINE_S, finds
from tests.mocker.scene import request
from tests.mocker.test_mocker_main import cards, until_served, worker

from dynamo._core.blocks import block_hashes
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm import EngineOutput, KvIndexer
from dynamo.runtime import Client, DistributedRuntime

PROMPT = list(range(200))


async def ask(client: Client, instance_id: int, dp_rank: int) -> None:
    asked = request(PROMPT, 2)
    asked.dp_rank = dp_rank
    async for _ in await client.direct(asked, instance_id, item_type=EngineOutput):
        pass


async def test_a_router_knows_the_blocks_of_each_rank_and_forgets_a_worker_that_was_killed(
    tmp_path: Path, tiny_model: Path
) -> None:
    options = ["--model-path", str(tiny_model), "--block-size", "16", "--dp-size", "2", "--speedup-ratio", "0"]
    prompt = list(block_hashes(PROMPT, 16))
    with worker(tmp_path, *options, "--num-workers", "2") as process:
        until_served(process, 2)
        async with DistributedRuntime(discovery=f"file://{tmp_path}") as runtime:
            client = await runtime.endpoint("dynamo.backend.generate").client()
            first, second = await client.wait_for_instances(2, timeout_s=DEADLINE_S)
            component = runtime.namespace("dynamo").component("backend")
            await ask(client, first, 1)
            async with KvIndexer(component, 16) as early:
                await finds(early, prompt, {WorkerKey(first, 1): 12})
                await ask(client, second, 0)
                both = {WorkerKey(first, 1): 12, WorkerKey(second, 0): 12}
                await finds(early, prompt, both)
                async with KvIndexer(component, 16) as late:
                    await finds(late, prompt, both)
                # What an answer has told already may come as an event, too.
                assert set(early.stats().faults) <= {"unlisted", "duplicate"}
                assert all(card.runtime_config["kv_events"] for card in (await cards(tmp_path)).values())
                process.send_signal(signal.SIGKILL)
                await finds(early, prompt, {})
