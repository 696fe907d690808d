"""The models that can be asked now, as workers come and go.

A worker puts its model card into discovery under its own lease. Here each card of a model adds an
instance to it; the first one builds its pipeline, and with the last one the model goes. Cards of one name
must agree: one that differs is refused, and said so, until the others are gone. A model whose last worker
left is kept for a moment: answers that have begun wait for the next one, and it need not be loaded anew. Once
workers with another card have its name it is gone for good.

A model may also be registered by a person, for workers that have no card (`_registered_models.py`). Where
there are both, the workers' own word counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from dynamo._core.address import MODEL_CARDS, EndpointId, parse_key
from dynamo._core.discovery.base import Put
from dynamo._core.errors import (
    DynamoError,
    NoInstances,
    NotFound,
    WorkerUnavailable,
)
from dynamo.llm._advertised_router import read_advertised
from dynamo.llm._capabilities import check_asked, why_unserved
from dynamo.llm._card_difference import difference
from dynamo.llm._following import FollowedModel, card_of, follow
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.llm._migration import PATIENCE_S, Migration, MigrationPolicy, MigrationStats
from dynamo.llm._model_card import MIGRATION_LIMIT, ModelCard
from dynamo.llm._model_pipelines import Pipeline as Pipeline
from dynamo.llm._model_pipelines import check_kind, pipeline_for
from dynamo.llm._open_router import check_router_config, open_router
from dynamo.llm._openai import OpenAIRequest
from dynamo.llm._poison import PoisonList
from dynamo.llm._registered_models import RegisteredModels, warn_shadowed
from dynamo.llm._registration import PUBLIC_NAMESPACE
from dynamo.llm._request_trace import RequestTrace
from dynamo.llm._routing import Router
from dynamo.llm._workers import ROUTES_TO, Serving, Workers
from dynamo.llm._zero_hits import LOOK_S, ZeroHits
from dynamo.runtime import DistributedRuntime

logger = logging.getLogger(__name__)

#: A model whose workers are gone is expected back for so long; later it is unknown.
EXPECTED_BACK_S = 600.0
EXPECTED_BACK_MAX = 1024
#: And so long its pipeline is kept, longer than any answer waits for a worker.
KEPT_S = PATIENCE_S + 2.0
KEPT_MAX = 64
NAMED_MAX = 8

IN_TURN = RouterConfig()


class _Model(FollowedModel):
    """One model: its card, who serves it, and, once it is loaded, its pipeline."""

    def __init__(self, card: ModelCard, endpoint: EndpointId) -> None:
        super().__init__()
        self.card = card
        self.endpoint = endpoint
        # Whose cards were accepted. The workers of the pipeline look at this very object.
        self.serving = Serving()
        self.pipeline: Pipeline | None = None
        # Ends what is kept of it; None while it has workers.
        self.end: asyncio.Task[None] | None = None

    def live(self) -> list[int]:
        return [] if self.workers is None or self.pipeline is None else self.workers.instance_ids()


class ModelManager:
    """Follows the model cards, and the registered models; use it with `async with`.

    With a `namespace` it sees the cards of that namespace and what is registered in it, else the cards of
    all and what is registered in the namespace `public`. Requests move between workers as often as the model's
    card says, or as `migration_limit` does, up to a length of `migration_max_seq_len` tokens. Which worker a
    request goes to, `router` says. Answers are written to `request_trace`, if there is one.
    """

    def __init__(
        self,
        runtime: DistributedRuntime,
        *,
        namespace: str | None = None,
        migration_limit: int | None = None,
        migration_max_seq_len: int | None = None,
        router: RouterConfig = IN_TURN,
        request_trace: RequestTrace | None = None,
    ) -> None:
        check_router_config(router)
        self._runtime = runtime
        self._namespace = namespace
        # The mutable state, changed by _put() and _delete() only. Every card that exists, by its key;
        # the models that they make; and when each model went whose workers are gone.
        self._cards: dict[str, ModelCard] = {}
        self._models: dict[str, _Model] = {}
        self._gone: dict[str, float] = {}
        # Of the cards that this frontend cannot serve: the model, and why.
        self._unserved: dict[str, tuple[str, str]] = {}
        # Models that are gone, and whose pipeline is kept for a moment.
        self._kept: dict[str, _Model] = {}
        self._faults_said: dict[str, str] = {}
        #: How often requests moved, for whoever counts.
        self.migrations = MigrationStats()
        self._migration_limit = migration_limit
        self._migration_max_seq_len = migration_max_seq_len
        self._poisoned = PoisonList(self._now)
        self._router_config = router
        self._request_trace = request_trace
        self._ready = asyncio.Event()
        self._registered = RegisteredModels(
            runtime,
            public_namespace=namespace or PUBLIC_NAMESPACE,
            on_ready=self._ready.set,
            is_served=self._models.__contains__,
            migration=lambda name, workers: self._migration(name, workers, MIGRATION_LIMIT),
            router=router,
        )
        # What is seen of routers that do not help.
        self._zero_hits = ZeroHits()
        self._follower: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._loading: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ModelManager:
        self._follower = asyncio.create_task(follow(self._runtime, MODEL_CARDS, self._put, self._delete))
        self._looking = asyncio.create_task(self._look_at_routers())
        await self._registered.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        ends = (model.end for model in self._kept.values())
        tasks = [task for task in (self._follower, self._looking, *self._loading, *ends) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._registered.__aexit__(*exc_info)
        for model in (*self._models.values(), *self._kept.values()):
            await model.close()

    # What a frontend asks.

    def pipeline(self, name: str, request: OpenAIRequest | None = None) -> Pipeline:
        """Return what answers for a model.

        Raises `NotFound` for a model that nobody has served lately, `NoInstances` for one that is loading
        or whose workers are gone, `WorkerUnavailable` for one that cannot be loaded here, and
        `InvalidArgument` for a request of a kind that the model does not answer, or that asks for what not all of
        its workers can do.
        """
        model = self._models.get(name)
        if model is None and name in self._registered:
            return self._registered.pipeline(name, request)
        if model is None and (why := self._why_unserved(name)):
            raise self._unservable(name, why)
        if model is None and not self._is_expected_back(name):
            raise NotFound(self._not_found(name), code="model_not_found", param="model")
        if model is None or (model.pipeline is not None and not model.live()):
            raise NoInstances(f"no live worker serves the model {name!r} right now", model=name)
        if model.fault is not None:
            raise WorkerUnavailable(f"the model {name!r} cannot be loaded by this frontend; its log says why")
        if model.pipeline is None:
            raise NoInstances(
                f"the model {name!r} is being loaded: try again in a moment", model=name, code="model_loading"
            )
        if request is not None:
            check_kind(model.card, request)
            check_asked(name, model.serving.capabilities, request)
        return model.pipeline

    def names(self) -> list[str]:
        """The models that can be asked now, in order."""
        own = {name for name, model in self._models.items() if model.live()}
        return sorted(own | (self._registered.names() - self._models.keys()))

    def fault(self) -> Exception | None:
        """Why there are workers and yet no model can be asked; None if one can, or may soon."""
        faults = [model.fault for model in self._models.values() if model.fault is not None]
        if not self._models and not self.names():
            return next((self._unservable(name, why) for name, why in self._unserved.values()), None)
        return faults[0] if faults and len(faults) == len(self._models) and not self.names() else None

    def created_s(self, name: str) -> int:
        """When this model came, in seconds of the Unix clock."""
        return self._models[name].created_s if name in self._models else self._registered.created_s(name)

    def user_data(self, name: str) -> Mapping[str, object]:
        """What whoever registered a model says of it; empty if nothing, or if nobody serves it."""
        return self._models[name].card.user_data if name in self._models else {}

    def instances(self) -> dict[str, list[str]]:
        """The live instances of each model that can be asked now."""
        return {name: self._instances(name) for name in self.names()}

    def _instances(self, name: str) -> list[str]:
        model = self._models.get(name)
        if model is None:
            return self._registered.instances(name)
        return [f"{model.endpoint}/{id:x}" for id in model.live()]

    def passed_over(self) -> list[str]:
        """Those of the live instances that were at fault lately, and have not answered since."""
        own = {
            f"{model.endpoint}/{id:x}"
            for model in self._models.values()
            for id in model.live()
            if model.workers is not None and model.workers.client.is_passed_over(id)
        }
        return sorted(own | self._registered.passed_over())

    def routers(self) -> dict[str, Router]:
        """The router of each model that has one."""
        own = {
            name: model.workers.router
            for name, model in self._models.items()
            if model.workers is not None and model.workers.router is not None
        }
        return self._registered.routers() | own

    def router_warnings(self) -> list[str]:
        """What is wrong with routing now, in a sentence each."""
        return self._zero_hits.warnings

    async def _look_at_routers(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._zero_hits.look(self.routers())

    async def wait_ready(self) -> None:
        """Wait until a first model can be asked."""
        await self._ready.wait()

    # Following the cards.

    async def _put(self, change: Put) -> None:
        if (found := card_of(change)) is None:
            return
        endpoint, _, card = found
        if self._namespace is not None and endpoint.namespace != self._namespace:
            return
        if card.is_settling:
            return  # whether its worker stands is decided in a moment; what it had said before counts until then
        self._unserved.pop(change.key, None)
        if why := why_unserved(card):
            await self._delete(change.key)
            self._unserved[change.key] = (card.display_name, why)
            logger.warning("worker %s of the model %r cannot be served here: %s", change.key, card.display_name, why)
            return
        if change.key in self._cards:
            if self._cards[change.key] == card:
                return
            await self._delete(change.key)
        self._cards[change.key] = card
        self._admit(change.key, card)
        await self._close_replaced(card.display_name)

    def _admit(self, key: str, card: ModelCard) -> None:
        """Count the instance of a card to its model, unless the two do not agree."""
        endpoint, instance_id = parse_key(key)
        model = self._models.get(card.display_name)
        if model is None or model.fault is not None:
            self._begin(key, card)
        elif conflict := _conflict(model, card, endpoint):
            logger.error(
                "worker %s is refused for the model %r: %s. It is used once the workers that differ from it are gone",
                key, card.display_name, conflict,
            )  # fmt: skip
        else:
            model.serving.add(instance_id, card)

    def _begin(self, key: str, card: ModelCard) -> None:
        """Begin a model with this card, and see which of the other cards of its name agree."""
        endpoint, instance_id = parse_key(key)
        model = self._take_back(card, endpoint) or _Model(card, endpoint)
        self._models[card.display_name] = model
        model.serving.add(instance_id, card)
        self._gone.pop(card.display_name, None)
        if card.display_name in self._registered:
            warn_shadowed(card.display_name)
        if model.pipeline is None:
            model.opening = asyncio.create_task(self._load(model))
            self._loading.add(model.opening)
            model.opening.add_done_callback(self._loading.discard)
        for other_key, other in self._cards.items():
            if other_key != key and other.display_name == card.display_name:
                self._admit(other_key, other)

    async def _delete(self, key: str) -> None:
        self._unserved.pop(key, None)
        card = self._cards.pop(key, None)
        model = None if card is None else self._models.get(card.display_name)
        if card is None or model is None:
            return
        endpoint, instance_id = parse_key(key)
        if endpoint != model.endpoint:
            return
        model.serving.discard(instance_id)
        if model.serving.cards:
            return
        del self._models[card.display_name]
        self._gone[card.display_name] = self._now()
        while len(self._gone) > EXPECTED_BACK_MAX:
            del self._gone[next(iter(self._gone))]
        logger.info("the model %r is gone: its last worker left", card.display_name)
        if model.pipeline is None:
            await model.close()
        else:
            await self._keep(model)
        for other_key, other in self._cards.items():
            if other.display_name == card.display_name:
                self._begin(other_key, other)
                await self._close_replaced(card.display_name)
                break

    async def _keep(self, model: _Model) -> None:
        """Keep a model that has no workers, for as long as somebody may wait for them."""
        name = model.card.display_name
        dropped = [self._kept.pop(name)] if name in self._kept else []
        if len(self._kept) >= KEPT_MAX:
            dropped.append(self._kept.pop(next(iter(self._kept))))
        self._kept[name] = model
        model.end = asyncio.create_task(self._end(model))
        for older in dropped:
            await self._close_kept(older)

    async def _close_replaced(self, name: str) -> None:
        """End what is kept of a model once workers with another card serve its name: they are not those it expects."""
        if name in self._models and name in self._kept:
            await self._close_kept(self._kept.pop(name))

    async def _close_kept(self, model: _Model) -> None:
        assert model.end is not None
        model.end.cancel()
        await model.close()

    async def _end(self, model: _Model) -> None:
        await asyncio.sleep(KEPT_S)
        del self._kept[model.card.display_name]
        await model.close()

    def _take_back(self, card: ModelCard, endpoint: EndpointId) -> _Model | None:
        """Return the model that was kept, if this card is like its own in everything."""
        model = self._kept.get(card.display_name)
        if model is None or model.end is None or endpoint != model.endpoint:
            return None
        its = model.card
        # What may differ between workers of one model need not be as it was.
        like = msgspec.structs.replace(
            card, runtime_config=its.runtime_config, capabilities=its.capabilities, user_data=its.user_data,
            waits=its.waits,
        )  # fmt: skip
        if like != its:
            return None
        model.end.cancel()
        model.end = None
        logger.info("the model %r is back", card.display_name)
        return self._kept.pop(card.display_name)

    def _router_for(self, card: ModelCard) -> RouterConfig:
        """What the workers say, or else what this frontend is told. Raises `ConfigError` for what makes no sense here.

        A router between them and this frontend has a configuration of its own, and the workers' is not for it.
        """
        if card.router_config is None or ROUTES_TO in card.runtime_config:
            return self._router_config
        config = read_advertised(card.router_config)
        check_router_config(config)
        logger.info("the workers of the model %r say how they are routed to: %s", card.display_name, config.mode.value)
        return config

    def _migration(self, name: str, workers: Workers, card_limit: int) -> Migration:
        limit = card_limit if self._migration_limit is None else self._migration_limit
        policy = MigrationPolicy(limit, self._migration_max_seq_len)
        return Migration(name, workers, policy, self.migrations, self._poisoned, self._runtime.rng)

    async def _load(self, model: _Model) -> None:
        """Build a model's pipeline, beside everything else."""
        name = model.card.display_name
        at = model.endpoint
        endpoint = self._runtime.namespace(at.namespace).component(at.component).endpoint(at.endpoint)
        try:
            model.workers = Workers(name, await endpoint.client(), model.serving, self._runtime.rng)
            config = self._router_for(model.card)
            model.workers.router = await open_router(config, endpoint, model.workers, model.card)
            migration = self._migration(name, model.workers, model.card.migration_limit)
            model.pipeline = await pipeline_for(model.card, migration, self._request_trace)
            await model.workers.client.wait_for_instances()
        except Exception as error:
            # Whatever a model's files can cause concerns this model only.
            model.fault, model.pipeline = error, None
            if model.workers is not None:
                await model.workers.close()
            # Every worker of a broken model brings the same fault: it is said once.
            if self._faults_said.get(name) != str(error):
                self._faults_said[name] = str(error)
                unexpected = None if isinstance(error, DynamoError) else error
                logger.error("the model %r cannot be served: %s", name, error, exc_info=unexpected)
            return
        self._faults_said.pop(name, None)
        logger.info("the model %r is ready", name)
        self._ready.set()

    def _unservable(self, name: str, why: str) -> WorkerUnavailable:
        return WorkerUnavailable(f"the model {name!r} cannot be served by this frontend: {why}", model=name)

    def _why_unserved(self, name: str) -> str | None:
        """Why the workers of a model, if there are any, cannot be served here."""
        return next((why for model, why in self._unserved.values() if model == name), None)

    def _not_found(self, name: str) -> str:
        names = self.names()
        known = ", ".join(repr(one) for one in names[:NAMED_MAX]) or "none yet"
        return f"the model {name!r} does not exist; served now: {known}" + (", ..." if len(names) > NAMED_MAX else "")

    def _is_expected_back(self, name: str) -> bool:
        return name in self._gone and self._now() - self._gone[name] < EXPECTED_BACK_S

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _conflict(model: _Model, card: ModelCard, endpoint: EndpointId) -> str | None:
    """Say in what a card differs from those that serve its model; None if in nothing that matters."""
    whose = "the workers that serve it now"
    if endpoint != model.endpoint:
        return f"its endpoint is {endpoint}, and that of {whose} is {model.endpoint}"
    return difference(card, model.card, whose)
