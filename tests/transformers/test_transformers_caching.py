"""Prefix caching of the engine: what its usage, its events, its card and its metrics say."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from tests.mocker.sink import NaiveSink
from tests.transformers.models import answer, generated_by_the_library, loaded, random_model, read, request
from transformers import LlamaConfig

from dynamo._core.blocks import block_hashes, sequence_hashes
from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, DynamoError, InvalidArgument
from dynamo.llm import PreprocessedRequest
from dynamo.transformers import TransformersEngine
from dynamo.transformers._loading import LoadedModel
from dynamo.transformers._stats import EngineMetrics

PROMPT = random.Random(0).choices(range(20, 2000), k=100)


@pytest.fixture
def sink() -> NaiveSink:
    return NaiveSink(16)


@pytest_asyncio.fixture
async def engine(tiny_model: Path, sink: NaiveSink) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(loaded(tiny_model), max_num_seqs=8, kv_event_sink=sink)
    yield engine
    await engine.close()


async def cached_tokens(engine: TransformersEngine, wanted: PreprocessedRequest) -> list[int | None]:
    """What each output says of the cache, that has a usage."""
    said = [output.completion_usage for output in await read(engine, wanted) if output.completion_usage is not None]
    return [usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None for usage in said]


async def test_the_first_output_and_the_last_say_how_much_of_the_prompt_was_cached(engine: TransformersEngine) -> None:
    assert await cached_tokens(engine, request(PROMPT)) == [0, 0]
    assert await cached_tokens(engine, request(PROMPT)) == [96, 96]
    assert await cached_tokens(engine, request([*PROMPT[:50], 5, 6, 7])) == [48, 48]
    assert await cached_tokens(engine, request(PROMPT, 1)) == [96]


async def test_what_was_computed_with_another_salt_is_not_found(tiny_model: Path) -> None:
    engine = TransformersEngine(loaded(tiny_model))
    for salt in (None, "tenant", "other"):
        asked = request(PROMPT)
        asked.cache_salt = salt
        assert [await cached_tokens(engine, asked) for _ in range(2)] == [[0, 0], [96, 96]]
        assert await answer(engine, asked) == generated_by_the_library(loaded(tiny_model).model, PROMPT, 16)
    assert engine.stats().kv_cached_blocks == 3 * 7
    await engine.close()


async def test_prompts_with_different_salts_that_come_together_do_not_wait_for_each_other(tiny_model: Path) -> None:
    engine = TransformersEngine(loaded(tiny_model))
    asked = [request(PROMPT) for _ in range(4)]
    for number, one in enumerate(asked):
        one.cache_salt = f"tenant-{number % 2}"
    found = await asyncio.gather(*(cached_tokens(engine, one) for one in asked))
    assert sorted(first for first, *_ in found if first is not None) == [0, 0, 96, 96]
    await engine.close()


async def test_adapters_that_it_has_not_and_salts_that_are_no_text_are_refused(engine: TransformersEngine) -> None:
    asked = request(PROMPT)
    asked.lora_name = "mine"
    with pytest.raises(InvalidArgument, match="this worker has no LoRA adapters, and so not 'mine'"):
        await answer(engine, asked)
    asked = request(PROMPT)
    asked.cache_salt = "\ud800"
    with pytest.raises(InvalidArgument, match="cache namespace"):
        await answer(engine, asked)
    assert await cached_tokens(engine, request(PROMPT)) == [0, 0]


async def test_a_request_that_is_stopped_before_it_began_does_not_say(engine: TransformersEngine) -> None:
    context = Context()
    context.kill()
    (output,) = [output async for output in engine.generate(request(PROMPT), context)]
    assert output.completion_usage is not None
    assert output.completion_usage.prompt_tokens_details is None


async def test_answers_from_cached_prefixes_are_those_of_generate(engine: TransformersEngine, tiny_model: Path) -> None:
    rng = random.Random(1)
    wanted = [[*PROMPT[: rng.randint(1, 100)], *rng.choices(range(20, 2000), k=10)] for _ in range(24)]
    got = await asyncio.gather(*(answer(engine, request(prompt)) for prompt in wanted))
    assert engine.stats().prefix_cache_hits > 0
    assert got == [generated_by_the_library(loaded(tiny_model).model, prompt, 16) for prompt in wanted]


async def test_an_answer_that_goes_on_at_another_worker_is_the_same_whatever_that_has_cached(
    engine: TransformersEngine,
) -> None:
    seeded = {"seed": 3, "presence_penalty": 1.0}
    whole = await answer(engine, request(PROMPT, 40, seeded))
    rest = request([*PROMPT, *whole[:20]], 20, seeded)
    rest.num_resumed_tokens = 20
    assert await cached_tokens(engine, rest) == [100, 100]  # 112 in blocks, 12 of them of the answer
    assert await answer(engine, rest) == whole[20:]


async def test_the_events_name_the_blocks_of_prompt_and_answer(engine: TransformersEngine, sink: NaiveSink) -> None:
    tokens = [*PROMPT, *await answer(engine, request(PROMPT, 30))]
    expected = sequence_hashes(block_hashes(tokens[:-1], 16))
    assert sink.block_hashes == set(expected)
    assert len(expected) == 8


async def test_the_events_add_up_to_what_is_cached_when_blocks_are_few(tiny_model: Path) -> None:
    sink = NaiveSink(8)
    engine = TransformersEngine(loaded(tiny_model), num_kv_blocks=20, kv_cache_block_size=8, kv_event_sink=sink)
    rng = random.Random(2)
    prompts = [[*PROMPT[: rng.randint(1, 60)], *rng.choices(range(20, 2000), k=20)] for _ in range(20)]
    await asyncio.gather(*(answer(engine, request(prompt)) for prompt in prompts))
    stats = engine.stats()
    await engine.close()
    assert (stats.kv_total_blocks, stats.kv_cached_blocks) == (20, len(sink.block_hashes))
    assert {"stored", "removed"} <= set(sink.events)


async def test_without_prefix_caching_nothing_is_found_and_nothing_told(tiny_model: Path, sink: NaiveSink) -> None:
    engine = TransformersEngine(loaded(tiny_model), enable_prefix_caching=False, kv_event_sink=sink)
    assert [await cached_tokens(engine, request(PROMPT)) for _ in range(2)] == [[0, 0]] * 2
    assert not engine.runtime_config["kv_events"]
    await engine.close()
    assert sink.events == []


async def test_its_card_tells_routers_how_many_blocks_there_are(tiny_model: Path, sink: NaiveSink) -> None:
    engine = TransformersEngine(
        loaded(tiny_model), max_num_seqs=3, num_kv_blocks=77, kv_cache_block_size=32, kv_event_sink=sink
    )
    assert engine.kv_cache_block_size == 32
    assert engine.runtime_config == {
        "total_kv_blocks": 77,
        "max_num_seqs": 3,
        "max_num_batched_tokens": 2048,
        "data_parallel_size": 1,
        "kv_events": True,
    }
    await engine.close()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"num_kv_blocks": 0}, "num_kv_blocks=0"),
        ({"kv_cache_block_size": 0}, "kv_cache_block_size=0"),
        ({"num_kv_blocks": 10**9}, "num_kv_blocks=1000000000 of 16 tokens do not fit"),
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_named(tiny_model: Path, setting: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TransformersEngine(loaded(tiny_model), **setting)  # type: ignore[arg-type]


def test_blocks_leave_room_for_one_request_as_long_as_the_context(tiny_model: Path) -> None:
    tight = dataclasses.replace(loaded(tiny_model), kv_cells_max=512 + 40)
    assert TransformersEngine(tight).stats().kv_total_blocks == 2
    assert TransformersEngine(tight, num_kv_blocks=1).stats().kv_total_blocks == 1
    with pytest.raises(ConfigError, match="which leaves 2 blocks"):
        TransformersEngine(tight, num_kv_blocks=3)


def test_where_memory_holds_one_context_only_the_log_says_that_nothing_is_cached(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = TransformersEngine(dataclasses.replace(loaded(tiny_model), kv_cells_max=512))
    assert engine.stats().kv_total_blocks == 0
    assert engine.runtime_config["total_kv_blocks"] == 32
    assert "prefix caching is off: memory" in caplog.text


def long_rope(original: int) -> LoadedModel:
    """A model whose embeddings are others once a request is longer than `original`."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    return random_model(
        LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "original_max_position_embeddings": original,
                **factors,
            },
        )
    )


def test_a_model_whose_prefixes_depend_on_what_follows_caches_none_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert TransformersEngine(long_rope(original=512)).stats().kv_total_blocks > 0
    assert "prefix caching" not in caplog.text
    assert TransformersEngine(long_rope(original=64)).stats().kv_total_blocks == 0
    assert "prefix caching is off: with its 'longrope' position embeddings" in caplog.text


class Poisoned(torch.nn.Module):
    """A model that gives no numbers from the position on that `limit` says, nor for token 9."""

    def __init__(self, model: torch.nn.Module, limit: int) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        self.device = torch.device("cpu")
        self.limit = limit

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **inputs: object) -> object:
        output = self.inner(input_ids=input_ids, position_ids=position_ids, **inputs)
        is_bad = ((input_ids == 9) | (position_ids >= self.limit)).any(-1)
        output.logits = output.logits.masked_fill(is_bad[:, None, None], float("nan"))
        return output


async def test_what_led_to_no_number_is_not_kept(tiny_model: Path, sink: NaiveSink) -> None:
    tiny = loaded(tiny_model)
    engine = TransformersEngine(dataclasses.replace(tiny, model=Poisoned(tiny.model, limit=130)), kv_event_sink=sink)
    with pytest.raises(DynamoError, match="was not a number"):
        await answer(engine, request([9, *PROMPT]))
    assert sink.events == []
    with pytest.raises(DynamoError, match="was not a number"):
        await answer(engine, request(PROMPT, 50))
    await engine.close()
    assert sink.block_hashes == set(sequence_hashes(block_hashes(PROMPT, 16)))


async def test_its_metrics_have_the_names_of_vllm(engine: TransformersEngine) -> None:
    for _ in range(2):
        await answer(engine, request(PROMPT, 4))
    samples = {sample.name: sample for metric in EngineMetrics(engine, "m", 255).collect() for sample in metric.samples}
    assert samples["vllm:prefix_cache_queries_total"].value == 200
    assert samples["vllm:prefix_cache_hits_total"].value == 96
    assert samples["vllm:prompt_tokens_total"].value == 200
    assert samples["vllm:generation_tokens_total"].value == 8
    assert samples["vllm:num_preemptions_total"].value == 0
    assert samples["vllm:num_requests_running"].value == 0
    assert samples["vllm:num_requests_waiting"].value == 0
    assert samples["vllm:kv_cache_usage_perc"].value == 0
    assert samples["vllm:kv_cache_usage_perc"].labels == {"model_name": "m", "engine": "0", "worker_id": "ff"}
