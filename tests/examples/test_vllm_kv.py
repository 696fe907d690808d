"""The vllm_kv example without vLLM: its page, with simulated engines. `tests/vllm/real` has it with the real ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.reader import Reader

PAGE = (Path(__file__).parents[2] / "examples" / "vllm_kv" / "README.md").read_text()
_VLLM = re.compile(r"^.*python -m dynamo\.vllm .*$", re.MULTILINE)
_SIMULATED = "python -m dynamo.mocker --model-path my-model --block-size 32"


def simulated(page: str) -> str:
    return _VLLM.sub(_SIMULATED, page)


def test_the_page_starts_two_workers_that_are_alike() -> None:
    first, second = _VLLM.findall(PAGE)
    assert first == second


@pytest.mark.timeout(120)
async def test_what_the_page_says_happens_with_simulated_engines(tmp_path: Path) -> None:
    await Reader(tmp_path).follow(simulated(PAGE))


@pytest.mark.timeout(120)
async def test_in_turn_each_prompt_goes_to_the_other_worker_the_second_time(tmp_path: Path) -> None:
    page = simulated(PAGE).replace("--router-mode kv", "--router-mode round-robin").replace(": 672 of", ": 0 of")
    await Reader(tmp_path).follow(re.sub(r"\d+ expected", "0 expected", page))
