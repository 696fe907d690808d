"""The KV router: where the requests to one model go, and what is known of their load.

The pipeline asks it through `place` (see `_routing.py`). Code of your own asks it for the `best_worker` and sends the
request itself, or lets it `generate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar, Unpack

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import Cancelled, InvalidArgument
from dynamo.llm._kv_events import dumped_events
from dynamo.llm._kv_router.config import AffinityMode, KvRouterConfig, LoadThresholdConfig
from dynamo.llm._kv_router.core import KvRouterCore
from dynamo.llm._kv_router.policy import Policy
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._kv_router.selector import Overlaps
from dynamo.llm._kv_router.stream import RoutedStream
from dynamo.llm._messages import OutputOptions, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._routing import NO_CONSTRAINTS, Asked, RoutedWorkers, RouterConfigOverride, RoutingConstraints
from dynamo.llm._wishes import NO_WISHES
from dynamo.runtime import Client, Endpoint

T = TypeVar("T")

#: No request generates more at a time.
NUM_TOKENS_MAX = 1 << 24


class WorkerOverlap(TypedDict):
    """How much of a prompt a worker has cached."""

    worker_id: int
    dp_rank: int
    overlap_blocks: int


class OverlapReport(TypedDict):
    """How much of a prompt each worker has cached; those without any are left out."""

    block_size: int
    num_blocks: int
    workers: list[WorkerOverlap]


class RouterOptions(TypedDict, total=False):
    """What can be given to a router besides its configuration; see `KvRouterCore`."""

    session_affinity_ttl_secs: float | None
    session_affinity_mode: AffinityMode
    load_threshold_config: LoadThresholdConfig
    policy: Policy | None
    indexer: Overlaps | None
    client: Client | None
    workers: RoutedWorkers | None


class KvRouter(KvRouterCore):
    """Chooses workers of one endpoint by what they have cached and what they have to do.

    `async with` starts and closes it; `await KvRouter.create(...)` starts it at once, and `close` is then yours.

    By its configuration it learns what is cached from the workers' events, remembers what it sent where, or, with an
    `overlap_score_credit` of 0, knows loads only. `indexer` is another source of that knowledge. `policy` is a choice
    of your own (`policy.py`). `client` and `workers` are what is followed already by whoever makes the router.
    """

    @classmethod
    async def create(
        cls,
        endpoint: Endpoint,
        block_size: int,
        kv_router_config: KvRouterConfig | None = None,
        **options: Unpack[RouterOptions],
    ) -> KvRouter:
        """Make a router and start it."""
        router = cls(endpoint, block_size, kv_router_config, **options)
        await router.start()
        return router

    async def generate(
        self,
        token_ids: Sequence[int],
        model: str = "",
        stop_conditions: StopConditions | Mapping[str, object] | None = None,
        sampling_options: SamplingOptions | Mapping[str, object] | None = None,
        output_options: OutputOptions | Mapping[str, object] | None = None,
        router_config_override: RouterConfigOverride | None = None,
        worker_id: int | None = None,
        dp_rank: int | None = None,
        extra_args: dict[str, object] | None = None,
        *,
        routing_constraints: RoutingConstraints = NO_CONSTRAINTS,
        session_id: str | None = None,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
        context: Context | None = None,
    ) -> RoutedStream:
        """Send a prompt to the best worker, or to the one that is named, and return what it generates, as dicts."""
        request = PreprocessedRequest(
            model=model,
            token_ids=list(token_ids),
            stop_conditions=_read(stop_conditions, StopConditions),
            sampling_options=_read(sampling_options, SamplingOptions),
            output_options=_read(output_options, OutputOptions),
            extra_args=extra_args or {},
            lora_name=lora_name,
            cache_salt=cache_namespace,
        )
        asked = Asked(
            request=request, context=context or Context(), token_ids=token_ids, lora_name=lora_name,
            cache_namespace=cache_namespace, constraints=routing_constraints, override=router_config_override,
            session_id=session_id, pinned_instance=worker_id, pinned_dp_rank=dp_rank,
        )  # fmt: skip
        return await self._send(request, asked)

    async def generate_from_request(
        self, request: PreprocessedRequest | Mapping[str, object], context: Context | None = None
    ) -> RoutedStream:
        """Send a request as workers take it to the best worker."""
        read = _read(request, PreprocessedRequest)
        asked = Asked.wishing(
            read.routing or NO_WISHES, request=read, context=context or Context(), token_ids=read.token_ids,
            lora_name=read.lora_name, cache_namespace=read.cache_salt, override=read.router_config_override,
            dp_rank=read.dp_rank,
        )  # fmt: skip
        return await self._send(read, asked)

    async def _send(self, request: PreprocessedRequest, asked: Asked) -> RoutedStream:
        assert self._client is not None
        route = await self.place(asked)

        def request_for(_: int) -> PreprocessedRequest:
            return msgspec.structs.replace(request, dp_rank=route.dp_rank)

        try:
            stream = await self._client.chosen(request_for, route.choose, asked.context, item_type=dict[str, object])
        except BaseException:
            route.close()
            raise
        return RoutedStream(stream, route)

    # What code of your own asks.

    async def best_worker(
        self,
        token_ids: Sequence[int],
        router_config_override: RouterConfigOverride | None = None,
        request_id: str | None = None,
        update_indexer: bool = False,
        *,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
        mm_hashes: Sequence[Sequence[int]] | None = None,
        routing_constraints: RoutingConstraints = NO_CONSTRAINTS,
        session_id: str | None = None,
        priority_jump: float = 0.0,
        strict_priority: int = 0,
        policy_class: str | None = None,
    ) -> tuple[int, int, int]:
        """Return the worker to send a prompt to, its rank, and how many blocks of the prompt it has cached.

        With a `request_id` the request is booked there, until `free`; and it may wait for room first. One that is
        booked already, or waits, is freed before; whoever waited for it gets `Cancelled`. Without one nothing is
        booked, and nothing waits; with `update_indexer` the router takes for granted that the prompt is sent there.
        """
        asked = Asked(
            request=None, context=Context(request_id), token_ids=token_ids, lora_name=lora_name,
            cache_namespace=cache_namespace, mm_hashes=mm_hashes, constraints=routing_constraints,
            override=router_config_override, session_id=session_id, priority_jump=priority_jump,
            strict_priority=strict_priority, policy_class=policy_class,
        )  # fmt: skip
        if request_id is None:
            return self._look_only(asked, update_indexer)
        await self.free(request_id)
        self._waiting[request_id] = asked.context
        try:
            route = await self.place(asked)
        except Cancelled as error:  # by `free`: nobody else knows the context
            raise Cancelled(f"request {request_id} was freed while it waited for room") from error
        finally:
            if self._waiting.get(request_id) is asked.context:
                del self._waiting[request_id]
        try:
            self._check_open()  # it may have waited
            if not route.is_open:
                route.choose(self._alive())
        except BaseException:
            route.close()
            raise
        self._named.add(request_id, route)
        assert route.weighed is not None
        return (*route.weighed.load.key, route.weighed.overlap_blocks)

    async def mark_prefill_complete(self, request_id: str) -> None:
        """The first token of a booked request is there. One that is not known is no error."""
        self._named.complete_prefill(request_id)

    async def note_tokens(self, request_id: str, num_tokens: int) -> None:
        """So many more tokens of a booked request were generated. One that is not known is no error."""
        if not 0 <= num_tokens <= NUM_TOKENS_MAX:
            raise InvalidArgument(f"num_tokens is {num_tokens}: a request generates from 0 to {NUM_TOKENS_MAX} tokens")
        self._named.note_tokens(request_id, num_tokens)

    async def free(self, request_id: str) -> None:
        """A booked request has ended, or one that waits is not wanted any more. One that is not known is no error."""
        if (context := self._waiting.pop(request_id, None)) is not None:
            context.kill()
        self._named.free(request_id)

    async def get_overlap_scores(
        self, token_ids: Sequence[int], *, lora_name: str | None = None, cache_namespace: str | None = None
    ) -> OverlapReport:
        """Return how many leading blocks of a prompt each worker has cached."""
        prompt = self._prompt(token_ids, lora_name, cache_namespace)
        selector = self.desk.selector
        loads = selector.fleet.loads(self._alive())
        overlaps = selector.overlaps(prompt, loads)
        workers: list[WorkerOverlap] = [
            {"worker_id": load.key.worker_id, "dp_rank": load.key.dp_rank, "overlap_blocks": blocks}
            for load, blocks in zip(loads, overlaps, strict=True)
            if blocks
        ]
        return {"block_size": self.block_size, "num_blocks": len(prompt.tokens_hashes), "workers": workers}

    async def get_potential_loads(
        self, token_ids: Sequence[int], *, lora_name: str | None = None, cache_namespace: str | None = None
    ) -> list[dict[str, int]]:
        prompt = self._prompt(token_ids, lora_name, cache_namespace)
        selector = self.desk.selector
        loads = selector.fleet.loads(self._alive())
        potential = selector.fleet.potential(prompt, loads, selector.overlaps(prompt, loads))
        return [msgspec.structs.asdict(one) for one in potential]

    async def dump_events(self) -> str:
        """Return what is known to be cached, as JSON: a list of events which make the same index."""
        events: list[bytes] = []
        if self._own_indexer is not None:
            events += [msgspec.json.encode(event) async for event in self._own_indexer.dump()]
        if (sent := self.desk.selector.sent) is not None:
            events += map(msgspec.json.encode, dumped_events(sent.dump()))
        return f"[{b','.join(events).decode()}]"

    def _prompt(self, token_ids: Sequence[int], lora_name: str | None, cache_namespace: str | None) -> Prompt:
        asked = Asked(
            request=None, context=Context(), token_ids=token_ids, lora_name=lora_name, cache_namespace=cache_namespace
        )
        return Prompt.of(asked, self.block_size)

    def _look_only(self, asked: Asked, update_indexer: bool) -> tuple[int, int, int]:
        self._check_open()
        self.check(asked)
        selector, now = self.desk.selector, self.desk.clock()
        prompt = self.desk.route(asked, self.block_size).prompt
        weighed = selector.select(asked, prompt, self._alive(), now)
        if update_indexer:
            selector.note_sent(weighed.load, prompt, now)
        return (*weighed.load.key, weighed.overlap_blocks)


def _read(given: T | Mapping[str, object] | None, type: type[T]) -> T:
    """Return a part of a request that was given as it is, or as a dict."""
    if isinstance(given, type):
        return given
    try:
        return msgspec.convert(given or {}, type)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"no {type.__name__}: {error}") from error
