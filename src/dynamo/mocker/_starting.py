"""Making a simulated engine for a model directory: its context length and the size of its vocabulary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dynamo._core.errors import ConfigError
from dynamo.llm import KvPublisher
from dynamo.llm._kv_events import KvEventSink
from dynamo.llm._model_card import ModelCard
from dynamo.llm._model_files import CONFIG, read_model_directory
from dynamo.mocker._answer import vocabulary_of
from dynamo.mocker._config import MockerConfig
from dynamo.mocker._engine import MockerEngine
from dynamo.mocker._metrics import MockerMetrics
from dynamo.runtime import Endpoint

log = logging.getLogger(__name__)


async def start_mocker(
    path: Path,
    config: MockerConfig,
    *,
    context_length: int | None,
    kv_event_sinks: Sequence[KvEventSink],
) -> MockerEngine:
    """Return an engine that stands for the model in `path`.

    Its context length takes the place of the one in `config`, but for what the blocks do not hold:
    without a `context_length` the engine has as much of the model's as they do.
    """
    model, vocabulary = await asyncio.to_thread(_read, path, context_length)
    room = config.num_gpu_blocks * config.block_size
    if not config.enable_chunked_prefill:
        room = min(room, config.max_num_batched_tokens)
    length = min(model, room) if context_length is None else model
    if length < model:
        log.warning(
            "the context of %s is cut from %d to %d tokens, which is what the blocks and batches hold",
            path,
            model,
            length,
        )
    return MockerEngine(
        replace(config, max_context_length=length), kv_event_sinks=kv_event_sinks, vocabulary=vocabulary
    )


async def start_mocker_at(
    endpoint: Endpoint,
    path: Path,
    config: MockerConfig,
    metrics: MockerMetrics,
    *,
    context_length: int | None,
    kv_events: bool,
    startup_time_s: float,
) -> MockerEngine:
    """Return it for the worker at `endpoint`: routers hear of its blocks, and the process's metrics tell of it."""
    await asyncio.sleep(startup_time_s)
    sinks = kv_publishers(endpoint, config) if kv_events else []
    engine = await start_mocker(path, config, context_length=context_length, kv_event_sinks=sinks)
    if not metrics.num_engines:
        endpoint.runtime.exposition.add(metrics)
    metrics.add(endpoint.lease_id(), engine)
    return engine


def kv_publishers(endpoint: Endpoint, config: MockerConfig) -> list[KvPublisher]:
    """Return what tells routers of the blocks of each rank of the worker at `endpoint`."""
    ranks = range(config.dp_size)
    return [KvPublisher(endpoint, kv_block_size=config.block_size, dp_rank=dp_rank) for dp_rank in ranks]


def _read(path: Path, context_length: int | None) -> tuple[int, range]:
    card = ModelCard.from_local_path(path, context_length=context_length)
    config = read_model_directory(path, None).config
    inner = config.get("text_config")
    size = (inner if isinstance(inner, dict) else config).get("vocab_size")
    if not isinstance(size, int) or size < 2:
        raise ConfigError(
            f"{path / CONFIG} has no vocab_size of 2 or more: the mocker answers with tokens of the model"
        )
    return card.context_length, vocabulary_of(size)
