"""The client of the vllm_kv example says what its page says. The commands of the page have started the workers."""

from __future__ import annotations

import re

import pytest
from tests.docs.reader import blocks_of
from tests.system.programs import Program, environment_of
from tests.vllm.real.scene import EXAMPLE, Scene
from tests.vllm.real.settings import TEST_TIMEOUT_S

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(TEST_TIMEOUT_S)]


async def test_the_second_time_all_that_can_be_cached_is_cached_and_expected(scene: Scene) -> None:
    [said] = [block.text for block in blocks_of(EXAMPLE.read_text()) if block.text.startswith("prompts that nobody")]
    client = await Program.start(
        "examples.vllm_kv.ask", str(scene.http.base_url), environment=environment_of("memory:")
    )
    assert await client.exit_status() == 0, client.text
    assert re.fullmatch(re.escape(said.strip()).replace(r"\.\.\.", r"\S+"), client.text), client.text
