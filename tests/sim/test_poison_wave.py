"""Many requests at once that each take down the worker that reads it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator

import pytest
from tests.sim.cluster import ready_cluster
from tests.sim.engine import SimEngine
from tests.sim.host import current_host
from tests.sim.load import Outcome, check_http, send_http
from tests.sim.loop import SimLoop, run
from tests.sim.scenario import PROMPTS, Ask, HttpRequest
from tests.sim.simulate import learn, reference

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, PreprocessedRequest

#: An ask for so many tokens is the poison.
POISON = Ask("poison", 13)
HEALTHY = [Ask(prompt, 30) for prompt in PROMPTS]


class MortalEngine(SimEngine):
    """Dies of the poison, a moment after it has read it."""

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        if request.stop_conditions.max_tokens == POISON.max_tokens:
            await asyncio.sleep(self._rng.uniform(0.0, 0.05))
            loop, host = asyncio.get_running_loop(), current_host.get()
            assert isinstance(loop, SimLoop)
            assert host is not None
            loop.network.crash(host, silently=False)
            await asyncio.sleep(0)
        async for output in super().generate(request, context):
            yield output


@pytest.mark.parametrize("within_s", [0.0, 0.01, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wave_of_one_poison_leaves_at_least_half_of_the_workers(seed: int, within_s: float) -> None:
    rng = random.Random(f"{seed} {within_s}")
    learn(HEALTHY)

    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, seed, workers=4, pace_s=0.01, make_engine=MortalEngine) as cluster:
            [frontend] = cluster.frontends()

            async def ask(request: HttpRequest) -> Outcome:
                await asyncio.sleep(request.at_s)
                outcome = Outcome(request.name)
                await send_http(frontend, request, outcome)
                return outcome

            poison = [HttpRequest(f"poison-{n}", rng.uniform(0.0, within_s), 0, POISON) for n in range(100)]
            healthy = [HttpRequest(f"healthy-{n}", rng.uniform(0.0, 5.0), 0, rng.choice(HEALTHY)) for n in range(50)]
            asked = await asyncio.gather(*map(ask, poison), *map(ask, healthy))
            poisoned, answered = asked[: len(poison)], asked[len(poison) :]
            assert Counter((outcome.how, outcome.code) for outcome in poisoned) == {("failed", "poisoned_request"): 100}
            assert len(cluster.workers()) == 2
            wrongs = [
                check_http(request, outcome, reference[request.ask], must_finish=True)
                for request, outcome in zip(healthy, answered, strict=True)
            ]
            assert [wrong for one in wrongs for wrong in one] == []

    run(main, seed)
