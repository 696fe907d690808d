"""The KV router: where the requests to one model go, and what is known of their load.

The pipeline asks it through `place` (see `_routing.py`). Code of your own asks it for the `best_worker` and sends the
request itself, or lets it `generate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import Cancelled, InvalidArgument
from dynamo._core.stability import stable
from dynamo.llm._block_hash import BlockMmInfo, mm_hashes_of
from dynamo.llm._kv_arguments import (
    DP_RANK_MAX,
    check_kind,
    check_number,
    check_text,
    check_text_or_none,
    check_whole,
    check_whole_or_none,
)
from dynamo.llm._kv_events import dumped_events
from dynamo.llm._kv_router.config import KvRouterConfig
from dynamo.llm._kv_router.core import KvRouterCore
from dynamo.llm._kv_router.given import RouterOptions, check_prompt, check_wanted, read_part
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._kv_router.stream import RoutedStream
from dynamo.llm._messages import OutputOptions, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._routing import NO_CONSTRAINTS, Asked, RouterConfigOverride, RoutingConstraints
from dynamo.llm._wishes import NO_WISHES, STRICT_PRIORITY_MAX
from dynamo.runtime import Endpoint, ResponseStream

#: No request generates more at a time.
NUM_TOKENS_MAX = 1 << 24


class WorkerOverlap(TypedDict):
    """How much of a prompt a worker has cached."""

    worker_id: int
    dp_rank: int
    #: Leading blocks of the prompt.
    overlap_blocks: int


class OverlapReport(TypedDict):
    """How much of a prompt each worker has cached; those without any are left out."""

    #: Tokens in a block.
    block_size: int
    #: Full blocks of the prompt.
    num_blocks: int
    workers: list[WorkerOverlap]


@stable(since="0.1")
class KvRouter(KvRouterCore):
    """Chooses workers of one endpoint by what they have cached and what they have to do.

        router = KvRouter(endpoint, block_size=16)
        worker_id, dp_rank, overlap_blocks = await router.best_worker(token_ids)

    `endpoint` is the workers', and `block_size` the tokens in a block of their caches. `kv_router_config` says what
    counts how much, and by what the router knows what is cached (`index_kind`):

    - "exact", the default: an index of the KV events that workers publish (see `KvIndexer`).
    - "approximate", with `use_kv_events=False`: an index of what it has sent where (see `ApproxKvIndexer`).
    - "none", with `overlap_score_credit=0`: caches do not count, loads do.
    - "given": `indexer`, a source of your own.

    The first thing that it is asked starts it; `async with`, or `await router.start()`, does so before. It ends with
    `close`, or with that block. Keyword options: `session_affinity_ttl_secs` (1 s to a year; None: off) keeps sessions
    to their workers, `session_affinity_mode` "hard" or "soft"; `load_threshold_config` says who is busy; `policy` is a
    choice of your own in place of the cost; `client` and `workers` are what is followed already by whoever makes the
    router; `rng` is its chance, else the runtime's.

    Raises `InvalidArgument` or `ConfigError` for what makes no sense. How a worker is chosen stands in `cost.py` and in
    docs/kv-routing.md.
    """

    @classmethod
    async def create(
        cls,
        endpoint: Endpoint,
        block_size: int,
        kv_router_config: KvRouterConfig | None = None,
        **options: Unpack[RouterOptions],
    ) -> KvRouter:
        """Make a router and start it; the arguments are those of the class. `close` is then yours.

        Raises `DynamoError` if discovery cannot be reached.
        """
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
        block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
        routing_constraints: RoutingConstraints = NO_CONSTRAINTS,
        session_id: str | None = None,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
        context: Context | None = None,
    ) -> RoutedStream:
        """Send a prompt to the best worker, and return what it generates: dicts, as `EngineOutput` is on the wire.

        `stop_conditions`, `sampling_options` and `output_options` are structs or dicts of their fields. `worker_id`
        and `dp_rank` name the worker that must take it. `block_mm_infos` are the media in each block of the prompt,
        and they, `lora_name` and `cache_namespace` are what a cache tells prompts apart by, besides tokens. `context`
        is the request's: its id, deadline and cancellation.

        Raises `InvalidArgument` for arguments that make no sense, `NoInstances` if no worker comes into question,
        `Overloaded` if all are busy, `RouterQueueLimitExceeded` or `DeadlineExceeded` where it waits in vain, and what
        the worker raises.
        """
        check_prompt(token_ids, lora_name, cache_namespace)
        check_wanted(router_config_override, routing_constraints, session_id)
        check_text("model", model)
        check_whole_or_none("worker_id", worker_id)
        check_whole_or_none("dp_rank", dp_rank, most=DP_RANK_MAX)
        if extra_args is not None:
            check_kind("extra_args", extra_args, dict, "a dict, or None")
        if context is not None:
            check_kind("context", context, Context, "a Context, or None")
        request = PreprocessedRequest(
            model=model,
            token_ids=list(token_ids),
            stop_conditions=read_part("stop_conditions", stop_conditions, StopConditions),
            sampling_options=read_part("sampling_options", sampling_options, SamplingOptions),
            output_options=read_part("output_options", output_options, OutputOptions),
            extra_args=extra_args or {},
            lora_name=lora_name,
            cache_salt=cache_namespace,
        )
        asked = Asked(
            request=request, context=context or Context(), token_ids=token_ids, lora_name=lora_name,
            cache_namespace=cache_namespace, mm_hashes=mm_hashes_of(block_mm_infos), constraints=routing_constraints,
            override=router_config_override, session_id=session_id, pinned_instance=worker_id, pinned_dp_rank=dp_rank,
        )  # fmt: skip
        return await self._send(request, asked)

    async def generate_from_request(
        self, request: PreprocessedRequest | Mapping[str, object], context: Context | None = None
    ) -> RoutedStream:
        """Send a request as workers take it, a struct or a dict of its fields, to the best worker; like `generate`.

        What it says of where it is to go stands in its `routing`, `router_config_override` and `dp_rank`.
        """
        read = read_part("request", request, PreprocessedRequest)
        if context is not None:
            check_kind("context", context, Context, "a Context, or None")
        asked = Asked.wishing(
            read.routing or NO_WISHES, request=read, context=context or Context(), token_ids=read.token_ids,
            lora_name=read.lora_name, cache_namespace=read.cache_salt, override=read.router_config_override,
            dp_rank=read.dp_rank,
        )  # fmt: skip
        return await self._send(read, asked)

    async def _send(self, request: PreprocessedRequest, asked: Asked) -> RoutedStream:
        route = await self.place(asked)
        assert self._client is not None

        def request_for(_: int) -> PreprocessedRequest:
            return msgspec.structs.replace(request, dp_rank=route.dp_rank)

        try:
            stream = await self._client.chosen(request_for, route.choose, asked.context, item_type=dict[str, object])
        except BaseException:
            route.close()
            raise
        return self._stream_of(stream, route)

    def _stream_of(self, stream: ResponseStream[dict[str, object]], route: KvRoute) -> RoutedStream:
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
        block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
        routing_constraints: RoutingConstraints = NO_CONSTRAINTS,
        session_id: str | None = None,
        priority_jump: float = 0.0,
        strict_priority: int = 0,
        policy_class: str | None = None,
    ) -> tuple[int, int, int]:
        """Return the worker to send a prompt to, its rank, and how many blocks of the prompt it has cached.

        With a `request_id` the request is booked there, until `free`; and it may wait for room first. One that is
        booked already, or waits, is freed before; whoever waited for it gets `Cancelled`. Without one nothing is
        booked, and nothing waits; with `update_indexer` the router takes for granted that the prompt is sent there,
        as far as it remembers what was sent where (`index_kind` "approximate", or `predicted_ttl_secs`).

        `router_config_override` changes what counts for this request. `mm_hashes` are the hashes of the media in each
        block, or `block_mm_infos` the same with more. Where requests wait, it counts as `priority_jump` seconds older,
        a higher `strict_priority` (from 0) goes first, and `policy_class` says in which line. Raises as `generate`
        does, and `Cancelled` where it waits and is freed.
        """
        check_prompt(token_ids, lora_name, cache_namespace)
        check_wanted(router_config_override, routing_constraints, session_id)
        check_text_or_none("request_id", request_id)
        check_number("priority_jump", priority_jump)
        check_whole("strict_priority", strict_priority, most=STRICT_PRIORITY_MAX)
        check_text_or_none("policy_class", policy_class)
        if mm_hashes is not None and block_mm_infos is not None:
            raise InvalidArgument("mm_hashes and block_mm_infos are both given: give one of them")
        asked = Asked(
            request=None, context=Context(request_id), token_ids=token_ids, lora_name=lora_name,
            cache_namespace=cache_namespace, constraints=routing_constraints,
            mm_hashes=mm_hashes_of(block_mm_infos) if mm_hashes is None else mm_hashes,
            override=router_config_override, session_id=session_id, priority_jump=priority_jump,
            strict_priority=strict_priority, policy_class=policy_class,
        )  # fmt: skip
        if request_id is None:
            return await self._look_only(asked, update_indexer)
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
        check_text("request_id", request_id)
        self._named.complete_prefill(request_id)

    async def note_tokens(self, request_id: str, num_tokens: int) -> None:
        """So many more tokens of a booked request were generated. One that is not known is no error.

        It counts with `router_track_output_blocks`.
        """
        check_text("request_id", request_id)
        check_whole("num_tokens", num_tokens, most=NUM_TOKENS_MAX)
        self._named.note_tokens(request_id, num_tokens)

    async def free(self, request_id: str) -> None:
        """A booked request has ended, or one that waits is not wanted any more. One that is not known is no error."""
        check_text("request_id", request_id)
        if (context := self._waiting.pop(request_id, None)) is not None:
            context.kill()
        self._named.free(request_id)

    async def get_overlap_scores(
        self,
        token_ids: Sequence[int],
        *,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
        block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
    ) -> OverlapReport:
        """Return how many leading blocks of a prompt each worker has cached. Nothing is booked.

        Raises `InvalidArgument` for arguments that make no sense.
        """
        prompt = self._prompt(token_ids, lora_name, cache_namespace, block_mm_infos)
        await self._ensure_started()
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
        self,
        token_ids: Sequence[int],
        *,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
        block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
    ) -> list[dict[str, int]]:
        """Return what each rank of each worker would have to do if this prompt went there. Nothing is booked.

        Each has `worker_id`, `dp_rank`, `potential_prefill_tokens` (tokens to compute, this prompt's included),
        `potential_decode_blocks` (blocks to hold while it generates) and `active_requests` (those that it has now).
        Raises `InvalidArgument` for arguments that make no sense.
        """
        prompt = self._prompt(token_ids, lora_name, cache_namespace, block_mm_infos)
        await self._ensure_started()
        selector = self.desk.selector
        loads = selector.fleet.loads(self._alive())
        potential = selector.fleet.potential(prompt, loads, selector.overlaps(prompt, loads))
        return [msgspec.structs.asdict(one) for one in potential]

    async def dump_events(self) -> str:
        """Return what is known to be cached, as JSON: a list of events which make the same index.

        An `indexer` of your own is not in it.
        """
        await self._ensure_started()
        events: list[bytes] = []
        if self._own_indexer is not None:
            events += [msgspec.json.encode(event) async for event in self._own_indexer.dump()]
        if (sent := self.desk.selector.sent) is not None:
            events += map(msgspec.json.encode, dumped_events(sent.dump()))
        return f"[{b','.join(events).decode()}]"

    def _prompt(
        self,
        token_ids: Sequence[int],
        lora_name: str | None,
        cache_namespace: str | None,
        block_mm_infos: Sequence[BlockMmInfo | None] | None,
    ) -> Prompt:
        check_prompt(token_ids, lora_name, cache_namespace)
        asked = Asked(
            request=None, context=Context(), token_ids=token_ids, lora_name=lora_name, cache_namespace=cache_namespace,
            mm_hashes=mm_hashes_of(block_mm_infos),
        )  # fmt: skip
        return Prompt.of(asked, self.block_size)

    async def _look_only(self, asked: Asked, update_indexer: bool) -> tuple[int, int, int]:
        self._check_open()
        await self._ensure_started()
        self.check(asked)
        selector, now = self.desk.selector, self.desk.clock()
        prompt = self.desk.route(asked, self.block_size).prompt
        weighed = selector.select(asked, prompt, self._alive(), now)
        if update_indexer:
            selector.note_sent(weighed.load, prompt, now)
        return (*weighed.load.key, weighed.overlap_blocks)
