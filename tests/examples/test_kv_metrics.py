"""The kv_metrics example, as its README says it is run."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands

from dynamo.llm import EndpointKvMetrics, KvMetricsAggregator
from dynamo.runtime import DistributedRuntime

EXAMPLE = Path(__file__).parents[2] / "examples" / "kv_metrics"


async def test_the_client_prints_what_the_readme_says(tmp_path: Path) -> None:
    _, arguments = readme_commands(EXAMPLE, "dynamo serve")
    [client] = readme_commands(EXAMPLE, "python")
    environment = environment_of(tmp_path)
    async with await Serving.start(*arguments, cwd=EXAMPLE, environment=environment) as serving:
        await serving.ready()
        process = await asyncio.create_subprocess_exec(
            sys.executable, *client, cwd=EXAMPLE, env=environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert (process.returncode, err.decode()) == (0, "")
        readme = (EXAMPLE / "README.md").read_text().splitlines()
        assert out.decode().splitlines() == [line for line in readme if line.endswith("blocks were cached")]
        serving.interrupt()
        assert await serving.exit_status() == 0


async def test_the_load_of_the_worker_is_what_it_publishes(tmp_path: Path) -> None:
    arguments, _ = readme_commands(EXAMPLE, "dynamo serve")
    async with await Serving.start(*arguments, cwd=EXAMPLE, environment=environment_of(tmp_path)) as serving:
        await serving.ready()
        async with DistributedRuntime(discovery=f"file://{tmp_path}") as runtime:
            component = runtime.namespace("your_namespace").component("YourWorker")
            client = await component.endpoint("generate").client()
            [worker_id] = await client.wait_for_instances(timeout_s=DEADLINE_S)
            aggregator = KvMetricsAggregator(component)
            async with asyncio.timeout(DEADLINE_S):
                while not (endpoints := (await aggregator.get_metrics()).endpoints):  # who is slow to say is left out
                    pass
            [before] = endpoints
            assert before == EndpointKvMetrics(worker_id, 0, 1024, 0, 1024, 0, 0.0, 0.0)
            async for _ in await client.generate({"text": "one two"}):
                pass
            async with asyncio.timeout(DEADLINE_S):
                while (await aggregator.get_metrics()).endpoints in ([], [before]):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        serving.interrupt()
        assert await serving.exit_status() == 0
