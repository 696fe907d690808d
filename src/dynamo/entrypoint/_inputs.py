"""Who asks: clients over HTTP, a person at the terminal, a file, or the frontends that ask a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from dynamo._core.address import EndpointId
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.exit_status import INTERRUPTED, OK
from dynamo._core.stability import beta
from dynamo.entrypoint._answering import Answering, until_ended
from dynamo.entrypoint._ask_options import AskOptions
from dynamo.entrypoint._engines import served
from dynamo.entrypoint._local import at
from dynamo.entrypoint._make import EngineConfig
from dynamo.entrypoint._who import EngineHere, WorkersOf
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._arguments import check_text, check_type

logger = logging.getLogger(__name__)

HTTP_HOST = "127.0.0.1"
HTTP_PORT = 8080

INPUTS = "'http', 'text', 'batch:FILE.jsonl' or 'dyn://namespace.component.endpoint'"

_HTTP = ("http",)
_DYN = ("dyn",)
#: The parameters of `EntrypointArgs` that only some inputs have a use for.
_ONLY_FOR = {"http_host": _HTTP, "http_port": _HTTP, "insecure": _HTTP}
#: Those that are so where the engine is in this process, ...
_ONLY_FOR_LOCAL = {"endpoint_id": _DYN, "runtime_config": _DYN, "migration_limit": _DYN}
#: ... and where workers answer.
_ONLY_FOR_DYNAMIC = {"model_name": ("text", "batch")}


@dataclass(frozen=True)
class _Input:
    kind: str
    file: Path = Path()
    endpoint: EndpointId | None = None


@beta(since="0.1")
async def run_input(runtime: DistributedRuntime, input: str, engine: EngineConfig) -> int:
    """Let `input` ask `engine` until the work is done or `runtime` shuts down; return the exit status.

    - "http" serves the OpenAI API, at `http_host` and `http_port`.
    - "text" is a chat if stdin and stdout are a terminal, and otherwise answers the one prompt on stdin.
    - "batch:FILE.jsonl" answers each line of a file, into FILE-output.jsonl beside it.
    - "dyn://namespace.component.endpoint" makes this process a worker there, and registers its model.

    Except for the last, an engine of this process is nobody else's: it is in no discovery. The status is 0 after an
    orderly end, 1 if lines of a batch have failed, and 130 if the runtime shut down before text or batch was done.
    When it is cancelled, requests that run are ended in order, too.

    Raises `InvalidArgument` for an input that there is not, `ConfigError` for a parameter of the `EntrypointArgs`
    that has no effect with this input, for a port that cannot be had and the like, `NoInstances` if no model can
    be asked in time, `EngineShutdown` if the engine of this process ends by itself, and TypeError for arguments of
    other types.
    """
    check_type("runtime", runtime, DistributedRuntime, "a DistributedRuntime that has joined")
    check_type("engine", engine, EngineConfig, "what make_engine returns")
    asks = _parse(input)
    _refuse_useless(asks, engine)
    if asks.kind == "dyn":
        await _be_worker(runtime, asks, engine)
        return OK
    if engine.engine is not None:
        answering: Answering = EngineHere(engine.engine, system_server=False)
    else:
        args = engine.args
        answering = WorkersOf(runtime, args.endpoint(), args.namespace, args.model_name)
    if asks.kind == "http":
        runtime.note_serving()
        await _serve_http(runtime, answering, engine)
        return OK
    if asks.kind == "batch":
        from dynamo.entrypoint._batch import output_beside, run_batch

        options, output = AskOptions(), output_beside(asks.file)
        if output.exists():
            raise ConfigError(f"input={input!r}: {str(output)!r} exists: move it away", setting="input")
        return await _until_shutdown(runtime, run_batch(answering, asks.file, output, options))
    from dynamo.entrypoint._text import run_text

    return await _until_shutdown(runtime, run_text(answering, AskOptions()))


def _parse(value: str) -> _Input:
    check_text("input", value)
    if value in ("http", "text"):
        return _Input(value)
    kind, colon, rest = value.partition(":")
    if kind == "batch" and colon:
        if not Path(rest).is_file():
            raise InvalidArgument(f"input={value!r} names no file: give {INPUTS}", parameter="input")
        return _Input(kind, file=Path(rest))
    if kind == "dyn" and rest.startswith("//"):
        return _Input(kind, endpoint=EndpointId.parse(value))
    raise InvalidArgument(f"input={value!r}: give {INPUTS}", parameter="input")


def _refuse_useless(asks: _Input, engine: EngineConfig) -> None:
    """Raise `ConfigError` for a parameter that was given and would have no effect."""
    args = engine.args
    if asks.kind == "dyn" and engine.engine is None:
        raise ConfigError(
            "input='dyn://...' with EngineType.Dynamic would pass requests on to other workers: give Echo"
        )
    special = _ONLY_FOR_DYNAMIC if engine.engine is None else _ONLY_FOR_LOCAL
    for name, kinds in {**_ONLY_FOR, **special}.items():
        if name in args.given() and asks.kind not in kinds:
            raise ConfigError(
                f"{name}={getattr(args, name)!r} has no effect with {asks.kind}: it is for {' and '.join(kinds)}",
                setting=name,
            )
    if asks.endpoint is not None and args.endpoint() not in (None, asks.endpoint):
        raise ConfigError(
            f"endpoint_id={args.endpoint_id!r} and input='dyn://...' name two endpoints: leave endpoint_id out",
            setting="endpoint_id",
        )


async def _serve_http(runtime: DistributedRuntime, answering: Answering, engine: EngineConfig) -> None:
    from dynamo.entrypoint._http import HttpInput
    from dynamo.frontend._config import FrontendConfig
    from dynamo.frontend._server import IN_PYTHON

    args = engine.args
    config = FrontendConfig(
        http_host=HTTP_HOST if args.http_host is None else args.http_host,
        http_port=HTTP_PORT if args.http_port is None else args.http_port,
        insecure=args.insecure,
        namespace=answering.namespace,
        migration_limit=args.migration_limit,
        migration_max_seq_len=args.migration_max_seq_len,
    )
    http = HttpInput(answering, config, logger.info, router=args.router_config, spelling=IN_PYTHON)
    async with answering.runtime() as seen, http.listening(seen) as ended:
        await http.serve(ended, runtime.wait_for_shutdown)


async def _be_worker(runtime: DistributedRuntime, asks: _Input, engine: EngineConfig) -> None:
    assert engine.engine is not None, "what answers elsewhere was refused"
    assert asks.endpoint is not None, "it was parsed"
    async with served(at(engine.engine, asks.endpoint), runtime) as ended:
        logger.info("serving the model %r at %s", engine.model_name, asks.endpoint)
        await until_ended(ended, runtime.wait_for_shutdown())


async def _until_shutdown(runtime: DistributedRuntime, work: Coroutine[object, object, int]) -> int:
    """Do the work, and stop it when the runtime shuts down."""
    working = asyncio.ensure_future(work)
    asked = asyncio.ensure_future(runtime.wait_for_shutdown())
    try:
        await asyncio.wait([working, asked], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else INTERRUPTED
    finally:
        for task in (working, asked):
            task.cancel()
        await asyncio.gather(working, asked, return_exceptions=True)
