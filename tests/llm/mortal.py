"""Workers that can be lost in every way, for tests of what becomes of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec
from tests.llm.scene import BOTH, DEADLINE_S, MODEL, World
from tests.oracle import OracleEngine

from dynamo._core.context import Context
from dynamo._core.errors import Disconnected, DynamoError
from dynamo._core.request_plane.base import Handler
from dynamo._core.request_plane.inproc import InprocListener, InprocPlane
from dynamo.llm import ModelInput, PreprocessedRequest, register_llm
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.llm._migration import MigrationType
from dynamo.llm._model_card import MIGRATION_LIMIT
from dynamo.llm._models import IN_TURN, ModelManager
from dynamo.llm._openai import CompletionRequest, parse
from dynamo.runtime import ServedEndpoint

ENDPOINT = "test.worker.generate"
PROMPT = [300, 301, 302, 303]
COUNT = 12
ONGOING, NEW = (MODEL, MigrationType.ONGOING_REQUEST), (MODEL, MigrationType.NEW_REQUEST)


class Generates(Protocol):
    """The part of an engine that is served; what it takes and gives depends on the kind of worker."""

    @property
    def generate(self) -> Callable[..., AsyncIterator[object]]: ...


class MortalPlane(InprocPlane):
    """A request plane whose listeners can be lost, as processes are."""

    def __init__(self) -> None:
        super().__init__()
        self.newest: InprocListener | None = None

    async def listen(self, handler: Handler) -> InprocListener:
        self.newest = await super().listen(handler)
        return self.newest

    def lose(self, listener: InprocListener, error: DynamoError) -> None:
        """Callers are told `error` by their own end, and reach nobody from now on."""
        self.forget(listener.address)
        for responder in list(listener.running.values()):
            responder.stream.fail(error)  # type: ignore[attr-defined]
            responder.abandon()


class Worker:
    """One of the workers of a cluster."""

    def __init__(self, engine: Generates, plane: MortalPlane, listener: InprocListener, served: ServedEndpoint) -> None:
        self.engine = engine
        self.instance_id = served.instance_id
        self.is_lost = False
        self._plane = plane
        self._listener = listener
        self._served = served

    def lose(self, error: DynamoError | None = None) -> None:
        """Lose it now: it died, unless `error` says something else. Discovery does not know yet."""
        self.is_lost = True
        self._plane.lose(self._listener, error or Disconnected("the connection to the peer was lost"))

    async def end(self) -> None:
        """End it in order, at the end of its drain."""
        self.is_lost = True
        await self._served.close(drain_s=0.0)


class Cluster:
    """Workers of one model, and a frontend's view of them."""

    def __init__(self, model_path: Path, stack: AsyncExitStack, *, migration_limit: int = MIGRATION_LIMIT) -> None:
        self.world = World()
        self.plane = MortalPlane()
        self.world.plane = self.plane
        self.workers: list[Worker] = []
        self._model_path = model_path
        self._stack = stack
        self._migration_limit = migration_limit
        self._leaving: dict[int, AsyncExitStack] = {}

    async def join(
        self,
        engine: Generates,
        *,
        model_input: ModelInput = ModelInput.Tokens,
        context_length: int | None = None,
    ) -> Worker:
        """Start another worker."""
        stack = await self._stack.enter_async_context(AsyncExitStack())
        runtime = await stack.enter_async_context(self.world.runtime())
        endpoint = runtime.endpoint(ENDPOINT)
        request_type = PreprocessedRequest if model_input is ModelInput.Tokens else None
        served = await endpoint.serve(engine.generate, request_type=request_type, drain_s=0.0)
        assert self.plane.newest is not None
        worker = Worker(engine, self.plane, self.plane.newest, served)
        stack.push_async_callback(served.close)
        await register_llm(
            model_input,
            BOTH,
            endpoint,
            str(self._model_path),
            MODEL,
            context_length=context_length,
            migration_limit=self._migration_limit,
        )
        self.workers.append(worker)
        self._leaving[worker.instance_id] = stack
        return worker

    async def leave(self, worker: Worker) -> None:
        """Discovery forgets a worker."""
        await self._leaving.pop(worker.instance_id).aclose()

    @property
    def num_lost(self) -> int:
        return sum(worker.is_lost for worker in self.workers)


@asynccontextmanager
async def cluster_of(
    model_path: Path,
    engines: Sequence[Generates],
    *,
    card_limit: int = MIGRATION_LIMIT,
    migration_limit: int | None = None,
    migration_max_seq_len: int | None = None,
    model_input: ModelInput = ModelInput.Tokens,
    router: RouterConfig = IN_TURN,
) -> AsyncIterator[tuple[Cluster, ModelManager]]:
    """A worker for each engine, all of them known to a frontend."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(model_path, stack, migration_limit=card_limit)
        for engine in engines:
            await cluster.join(engine, model_input=model_input)
        async with (
            cluster.world.runtime() as runtime,
            ModelManager(
                runtime,
                migration_limit=migration_limit,
                migration_max_seq_len=migration_max_seq_len,
                router=router,
            ) as models,
        ):
            await within(lambda: len(models.instances().get(MODEL, [])) == len(engines))
            yield cluster, models


async def within(condition: Callable[[], bool]) -> None:
    """Wait until something is true of objects that have no event for it."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


# Asking them.


class Answer(msgspec.Struct):
    """What a client got, in short."""

    token_logprobs: list[float]
    text: str
    reasons: list[str]
    usage: dict[str, int]


def completion(**fields: object) -> CompletionRequest:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": COUNT, "logprobs": 0}
    return parse(CompletionRequest, body | fields)  # type: ignore[arg-type]


async def ask(models: ModelManager, request: CompletionRequest | None = None, context: Context | None = None) -> Answer:
    """Stream an answer. Every chunk of it has a text, log probabilities or a reason."""
    request = request or completion(stream=True, stream_options={"include_usage": True})
    answer = Answer([], "", [], {})
    pipeline = models.pipeline(MODEL)
    async with asyncio.timeout(DEADLINE_S), aclosing(pipeline.stream(request, context or Context())) as batches:
        async for batch in batches:
            for chunk in map(msgspec.json.decode, batch):
                answer.usage = chunk["usage"] or answer.usage
                for choice in chunk["choices"]:
                    logprobs = choice["logprobs"]["token_logprobs"] if choice["logprobs"] else []
                    assert choice["text"] or logprobs or choice["finish_reason"]
                    answer.text += choice["text"]
                    answer.token_logprobs += logprobs
                    answer.reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    return answer


async def undisturbed(model_path: Path) -> Answer:
    async with cluster_of(model_path, [OracleEngine()]) as (_, models):
        return await ask(models)


def losing(cluster: Callable[[], Cluster], at: int, error: DynamoError | None = None) -> OracleEngine:
    """An engine whose worker is lost once it has given `at` tokens."""
    engine: OracleEngine

    def die() -> None:
        (worker,) = (one for one in cluster().workers if one.engine is engine)
        worker.lose(error)

    engine = OracleEngine(fault="die", fault_after_tokens=at, die=die)
    return engine


def losing_all(count: int, at: int, error: DynamoError | None = None) -> tuple[list[OracleEngine], list[Cluster]]:
    """Engines that all do that, and the list to put their cluster in."""
    clusters: list[Cluster] = []
    return [losing(lambda: clusters[0], at, error) for _ in range(count)], clusters
