"""From arguments to an engine that can be run: everything is checked that can be before it starts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from dynamo._core.stability import beta
from dynamo.entrypoint._args import EngineType, EntrypointArgs
from dynamo.entrypoint._engines import LocalEngine
from dynamo.entrypoint._local import local_engine
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._arguments import check_type


@beta(since="0.1", constructor=False)
@dataclass(frozen=True)
class EngineConfig:
    """What `make_engine` makes and `run_input` runs. Nothing runs yet, so nothing has to be closed."""

    #: What it was made of.
    args: EntrypointArgs
    #: The engine of this process; None where workers answer.
    engine: LocalEngine | None = field(repr=False)

    @property
    def engine_type(self) -> EngineType:
        """Who answers."""
        return self.args.engine_type

    @property
    def model_name(self) -> str | None:
        """What requests call the model; None: whatever the workers have."""
        return self.args.model_name if self.engine is None else self.engine.model_name


@beta(since="0.1")
async def make_engine(runtime: DistributedRuntime, args: EntrypointArgs) -> EngineConfig:
    """Return what answers, ready for `run_input`, which is what starts it.

    The model of an engine of this process is looked up, or fetched from the hub, and read. Raises `NotFound` or
    `ConfigError` if it cannot be served so, `ConfigError` or TypeError for options that the engine has not,
    `DynamoError` if `runtime` has not joined yet, and TypeError for arguments of other types.
    """
    check_type("runtime", runtime, DistributedRuntime, "a DistributedRuntime that has joined")
    check_type("args", args, EntrypointArgs, "EntrypointArgs")
    _ = runtime.lease
    if args.engine_type is EngineType.Dynamic:
        return EngineConfig(args, None)
    engine = await local_engine(args)
    path = await engine.fetch()
    await asyncio.to_thread(
        ModelCard.from_local_path,
        path,
        name=engine.model_name,
        context_length=args.context_length,
        custom_template_path=args.template_file,
    )
    return EngineConfig(args, engine)
