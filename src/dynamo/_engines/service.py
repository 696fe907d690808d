"""What the services of all engines have in common; those of the SDK that serve a model derive from it.

A service of another engine has the engine's settings in its constructor, beside those of every worker, and says how the
engine is made:

    class ParrotWorker(EngineService):
        _needs_weights = False

        def __init__(
            self,
            model_path: str,
            model_name: str | None = None,
            volume: int = 3,
            context_length: int | None = None,
            migration_limit: int = MIGRATION_LIMIT,
            taints: str | Sequence[str] = (),
            device_weight: float | None = None,
            on_conflict: str = REFUSE,
        ) -> None:
            super().__init__(
                model_path, model_name, context_length, migration_limit, taints, device_weight, on_conflict
            )
            self.volume = volume

        async def _make_engine(self, path: Path, endpoint: Endpoint, name: str) -> ParrotEngine:
            return ParrotEngine(volume=self.volume)

The command of the engine is `run_engine_workers` of `dynamo.llm._worker` with options of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from dynamo._core.context import Context
from dynamo.llm import EngineOutput
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._served_model import ServedModel
from dynamo.llm._worker import WorkerEngine
from dynamo.llm._worker_labels import worker_labels
from dynamo.llm._worker_options import check_on_conflict
from dynamo.runtime import Endpoint
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_context, dynamo_endpoint


class EngineService:
    """Fetches a model, has an engine made for it, tells the frontends, answers, and ends both.

    The parameters are those of every worker, and have their defaults where a service of an engine has them. Raises
    `ConfigError` for settings that make no sense.
    """

    #: Whether the engine reads the model's weights: they are not fetched for one that does not.
    _needs_weights = True

    def __init__(
        self,
        model_path: str,
        model_name: str | None,
        context_length: int | None,
        migration_limit: int,
        taints: str | Sequence[str],
        device_weight: float | None,
        on_conflict: str,
    ) -> None:
        self.model_path = model_path
        self.model_name = model_name
        self.context_length = context_length
        self.migration_limit = migration_limit
        self.labels: dict[str, object] = worker_labels(taints, device_weight)
        self.on_conflict: str = check_on_conflict(on_conflict)
        self._model: ServedModel | None = None

    async def _make_engine(self, path: Path, endpoint: Endpoint, name: str) -> WorkerEngine:
        """Return the engine for the model in `path`, which answers at `endpoint` and is called `name`."""
        raise NotImplementedError(f"{type(self).__qualname__} does not say how its engine is made")

    @async_on_start
    async def start_engine(self) -> None:
        """Make the engine, and tell the frontends about the model."""
        path = await fetch_llm(self.model_path, ignore_weights=not self._needs_weights)
        endpoint = next(one for one in dynamo_context["endpoints"] if one.id.endpoint == "generate")
        name = self.model_name or default_model_name(self.model_path)
        self._model = await ServedModel.start(
            await self._make_engine(path, endpoint, name),
            endpoint,
            path,
            name,
            migration_limit=self.migration_limit,
            labels=self.labels,
            on_conflict=self.on_conflict,
        )

    @dynamo_endpoint()
    async def generate(self, request: object, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Token ids in, token ids out."""
        assert self._model is not None
        async with aclosing(self._model.generate(request, context)) as outputs:
            async for output in outputs:
                yield output

    @async_on_shutdown
    async def close_engine(self) -> None:
        """Take the model back, and end the engine."""
        if self._model is not None:
            await self._model.close()
