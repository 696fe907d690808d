"""Small models with random weights, and the library's own answers to compare with."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.transformers import TransformersEngine
from dynamo.transformers._loading import LoadedModel, load_model

CONTEXT_LENGTH = 512

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
ARCHITECTURES: dict[str, PreTrainedConfig] = {
    "absolute positions": GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3),
    "no positions": BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3),
    "sliding window": MistralConfig(**SMALL, intermediate_size=64, num_key_value_heads=1, sliding_window=16),
    "some layers slide": Gemma3TextConfig(
        **SMALL, intermediate_size=64, num_key_value_heads=1, head_dim=16, sliding_window=16
    ),
    "biases": Qwen2Config(**SMALL, intermediate_size=64, num_key_value_heads=2),
}


@functools.cache
def loaded(path: Path) -> LoadedModel:
    """The tiny model in float32, loaded once."""
    return load_model(str(path), device="cpu", dtype="float32", max_context_length=CONTEXT_LENGTH)


def random_model(config: PreTrainedConfig) -> LoadedModel:
    """A model of any architecture."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    vocab_size = config.get_text_config().vocab_size
    return LoadedModel(model, vocab_size=vocab_size, max_context_length=CONTEXT_LENGTH, kv_cells_max=10**6)


@torch.inference_mode()
def generated_by_the_library(model: PreTrainedModel, prompt: list[int], max_tokens: int) -> list[int]:
    """What `generate` answers to this prompt alone, greedily."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_tokens,
        min_new_tokens=max_tokens,
        pad_token_id=0,
    )
    token_ids: list[int] = output[0, len(prompt) :].tolist()
    return token_ids


def request(
    prompt: list[int],
    max_tokens: int = 16,
    sampling: Mapping[str, float] | None = None,
    stop: StopConditions | None = None,
) -> PreprocessedRequest:
    """A request that ends at `max_tokens`; greedy unless `sampling` says otherwise."""
    conditions = stop or StopConditions(max_tokens=max_tokens, ignore_eos=True)
    options = SamplingOptions(**({"temperature": 0.0} if sampling is None else sampling))  # type: ignore[arg-type]
    return PreprocessedRequest("tiny", prompt, conditions, options)


async def read(engine: TransformersEngine, wanted: PreprocessedRequest) -> list[EngineOutput]:
    return [output async for output in engine.generate(wanted, Context())]


async def answer(engine: TransformersEngine, wanted: PreprocessedRequest) -> list[int]:
    return [token_id for output in await read(engine, wanted) for token_id in output.token_ids]
