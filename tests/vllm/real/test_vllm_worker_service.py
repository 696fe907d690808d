"""The vLLM worker as a service of an SDK graph."""

from __future__ import annotations

import pytest
from tests.vllm.real.cases import CASES
from tests.vllm.real.scene import World, tokens_of
from tests.vllm.real.settings import TEST_TIMEOUT_S

from dynamo.llm import EngineOutput

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(TEST_TIMEOUT_S)]


async def test_a_service_with_this_base_serves_the_model(world: World) -> None:
    case = CASES[0]
    async with world.service() as client:
        stream = await client.generate(case.ours, item_type=EngineOutput)
        outputs = [output async for output in stream]
    assert tokens_of(outputs) == (await world.answer_of_vllm_alone(case))["token_ids"]
