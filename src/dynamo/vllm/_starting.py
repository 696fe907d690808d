"""Making the engine of a worker: vLLM started, tried out, and its blocks and metrics told."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dynamo._core.errors import ConfigError
from dynamo.llm import KvPublisher
from dynamo.runtime import Endpoint
from dynamo.runtime._daemon_thread import in_daemon_thread
from dynamo.vllm._engine import VllmEngine
from dynamo.vllm._guard import kill_children
from dynamo.vllm._metrics import VllmMetrics

if TYPE_CHECKING:
    from dynamo.vllm._vllm import VllmCore

log = logging.getLogger(__name__)


async def start_vllm(
    path: Path,
    endpoint: Endpoint,
    *,
    model_name: str,
    context_length: int | None,
    engine_arguments: Sequence[str],
) -> VllmEngine:
    """Return an engine that is ready to answer, for the worker at `endpoint`.

    `engine_arguments` are vLLM's own, as for `vllm serve`. Raises `ConfigError` if they are wrong, if the model is
    not one for vLLM, or if there is no vLLM.
    """
    async with AsyncExitStack() as belongings:
        # Who may use the sockets in it may tell routers of blocks: only this user.
        sockets = tempfile.mkdtemp(prefix="dynamo-vllm-")
        belongings.callback(shutil.rmtree, sockets, ignore_errors=True)

        def load() -> VllmCore:
            return _load(path, model_name, context_length, engine_arguments, sockets)

        children = multiprocessing.active_children()
        try:
            core = await in_daemon_thread(load, name="dynamo-vllm-load")
        except BaseException:
            kill_children(but=children)
            raise
        try:
            await core.try_out()
            facts = core.facts
            log.info("vLLM: %s", facts)
            for source in facts.kv_events:
                publisher = KvPublisher(
                    endpoint,
                    kv_block_size=facts.block_size,
                    dp_rank=source.dp_rank,
                    zmq_endpoint=source.endpoint,
                    zmq_replay_endpoint=source.replay_endpoint,
                    zmq_topic=source.topic,
                )
                belongings.push_async_callback(publisher.close)
            metrics = VllmMetrics()
            endpoint.runtime.exposition.add(metrics)
            belongings.callback(endpoint.runtime.exposition.remove, metrics)
            return VllmEngine(core, belongings.pop_all())
        except BaseException:
            await core.close()
            raise


def show_engine_help() -> None:
    """Print the options of vLLM's engine. Raises `ConfigError` if there is no vLLM."""
    try:
        from dynamo.vllm._vllm import show_help
    except ImportError as error:
        raise _missing(error) from error
    show_help()


def _load(
    path: Path, model_name: str, context_length: int | None, engine_arguments: Sequence[str], sockets: str
) -> VllmCore:
    # Those between vLLM's own processes, too, which it leaves behind otherwise.
    os.environ.setdefault("VLLM_RPC_BASE_PATH", sockets)
    try:
        from dynamo.vllm._vllm import VllmCore, engine_args
    except ImportError as error:
        raise _missing(error) from error
    return VllmCore(
        engine_args(
            engine_arguments,
            model_path=str(path),
            model_name=model_name,
            context_length=context_length,
            sockets=sockets,
        )
    )


def _missing(error: ImportError) -> ConfigError:
    if (error.name or "").partition(".")[0] == "vllm":
        return ConfigError("the vLLM engine needs the package vllm: pip install vllm")
    return ConfigError(f"vllm cannot be imported: {error}")
