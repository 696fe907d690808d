"""Wrong arguments of what is public about KV caches: the error names the parameter, the value, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.llm.kv.scene import BLOCK_SIZE, Host, endpoint_of
from tests.llm.kv_router.cluster import Cluster

from dynamo import llm
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo.runtime import Endpoint
from dynamo.runtime._component import Component

NAN = math.nan
#: The wrong values are of types that no checker would let pass.
Call = Callable[[Any], object]
untyped: Any = llm


def case(call: Call, message: str) -> object:
    return pytest.param(call, message, id=message)


def component_of(endpoint: Endpoint) -> Component:
    return endpoint.runtime.namespace(endpoint.id.namespace).component(endpoint.id.component)


OF_PUBLISHERS = [
    case(lambda e: untyped.KvPublisher("a.b.c", kv_block_size=4), "endpoint is 'a.b.c': give the worker's endpoint"),
    case(lambda e: untyped.KvPublisher(e), "kv_block_size is 0: give the tokens in a block"),
    case(lambda e: untyped.KvPublisher(e, kv_block_size="16"), "kv_block_size is '16'"),
    case(lambda e: untyped.KvPublisher(e, kv_block_size=True), "kv_block_size is True"),
    case(lambda e: untyped.KvPublisher(e, -1, 4), "worker_id is -1: give an integer of at least 0"),
    case(lambda e: untyped.KvPublisher(e, 2**64, 4), "worker_id is 18446744073709551616"),
    case(lambda e: untyped.KvPublisher(e, 1, 4, -1), "dp_rank is -1: give an integer from 0 to 1023"),
    case(lambda e: untyped.KvPublisher(e, 1, 4, 1024), "dp_rank is 1024"),
    case(lambda e: untyped.KvPublisher(e, 1, 4, batching_timeout_ms=NAN), "batching_timeout_ms is nan: give a number"),
    case(lambda e: untyped.KvPublisher(e, 1, 4, batching_timeout_ms=-1), "batching_timeout_ms is -1"),
    case(lambda e: untyped.KvPublisher(e, 1, 4, zmq_endpoint=5557), "zmq_endpoint is 5557: give a str, or None"),
    case(lambda e: untyped.KvPublisher(e, 1, 4, zmq_topic=None), "zmq_topic is None: give a str"),
    case(lambda e: untyped.KvPublisher(e, 1, 4, zmq_topic="kv"), "zmq_topic is 'kv', and there is no zmq_endpoint"),
    case(
        lambda e: untyped.KvPublisher(e, 1, 4, zmq_replay_endpoint="tcp://a:1"),
        "zmq_replay_endpoint is 'tcp://a:1', and",
    ),
]

OF_CALLS_TO_PUBLISHERS = [
    case(lambda p: p.publish_stored(None, [4], [1]), "token_ids is None: give a list of integers"),
    case(lambda p: p.publish_stored("abcd", [4], [1]), "token_ids is 'abcd'"),
    case(lambda p: p.publish_stored([1] * 4, 4, [1]), "num_block_tokens is 4"),
    case(lambda p: p.publish_stored([1] * 4, [4], 7), "block_hashes is 7"),
    case(lambda p: p.publish_stored([1] * 4, [4], [1], lora_name=5), "lora_name is 5: give a str, or None"),
    case(lambda p: p.publish_stored([1] * 4, [4], [1], cache_salt=5), "cache_salt is 5"),
    case(lambda p: p.publish_removed(None), "block_hashes is None"),
    case(lambda p: p.publish_batch("cleared"), "events is 'cleared': give a list of changes"),
]

OF_INDEXES = [
    case(lambda e: untyped.KvIndexer(e, 4), "component is <"),
    case(lambda e: untyped.KvIndexer(component_of(e), 0), "kv_block_size is 0"),
    case(lambda e: untyped.KvIndexer(component_of(e), 4, blocks_max=0), "blocks_max is 0: give an integer from 1"),
    case(lambda e: untyped.ApproxKvIndexer(None, 4), "component is None"),
    case(lambda e: untyped.ApproxKvIndexer(component_of(e), 4.0), "kv_block_size is 4.0"),
    case(lambda e: untyped.ApproxKvIndexer(component_of(e), 4, 0), "ttl_secs is 0: give a number above 0, or None"),
    case(lambda e: untyped.ApproxKvIndexer(component_of(e), 4, NAN), "ttl_secs is nan"),
    case(lambda e: untyped.ApproxKvIndexer(component_of(e), 4, "1"), "ttl_secs is '1'"),
    case(lambda e: untyped.ApproxKvIndexer(component_of(e), 4, room_blocks=0), "room_blocks is 0"),
    case(lambda e: untyped.KvRecorder("worker"), "component is 'worker'"),
    case(lambda e: untyped.KvRecorder(component_of(e), 5), "output_path is 5: give a path"),
    case(
        lambda e: untyped.KvRecorder(component_of(e), None, 0), "max_lines_per_file is 0: give an integer of at least 1"
    ),
    case(lambda e: untyped.KvRecorder(component_of(e), max_count=-1), "max_count is -1"),
    case(lambda e: untyped.KvRecorder(component_of(e), max_time=NAN), "max_time is nan"),
]

OF_TREES = [
    case(lambda t: t.find_matches(None), "hashes is None: give a list of integers of 64 bits"),
    case(lambda t: t.find_matches("ab"), "hashes is 'ab'"),
    case(lambda t: t.find_matches([1.5]), "hashes of blocks are integers"),
    case(lambda t: t.apply_event("a", b"{}"), "worker_id is 'a'"),
    case(lambda t: t.apply_event(1, b"{}"), "json_bytes is b'{}', which is no KV event"),
    case(lambda t: t.apply_event(1, None), "json_bytes is None, which is no KV event"),
    case(lambda t: t.remove_worker(-1), "worker_id is -1"),
    case(lambda t: t.clear_all_blocks(None), "worker_id is None"),
]

OF_HASHES = [
    case(lambda _: untyped.compute_block_hash_for_seq(None, 4), "tokens is None: give a list of integers"),
    case(lambda _: untyped.compute_block_hash_for_seq("", 4), "tokens is ''"),
    case(
        lambda _: untyped.compute_block_hash_for_seq([1, -2], 4), "token 1 of token_ids is -2; token ids are integers"
    ),
    case(lambda _: untyped.compute_block_hash_for_seq([1], 0), "kv_block_size is 0"),
    case(lambda _: untyped.compute_block_hash_for_seq([1], 4, lora_name=5), "lora_name is 5"),
    case(lambda _: untyped.compute_block_hash_for_seq([1], 4, cache_namespace=b"a"), "cache_namespace is b'a'"),
    case(lambda _: untyped.compute_block_hash_for_seq([1] * 4, 4, [5]), "block_mm_infos: "),
    case(lambda _: untyped.Decision.from_json(b"[]"), "data is b'[]', which is no Decision"),
]

OF_ROUTERS = [
    case(lambda e: untyped.KvRouter("a.b.c", 4), "endpoint is 'a.b.c': give the workers' endpoint"),
    case(lambda e: untyped.KvRouter(component_of(e), 4), "endpoint is the component worker: give the endpoint"),
    case(lambda e: untyped.KvRouter(e, 0), "block_size is 0"),
    case(
        lambda e: untyped.KvRouter(e, 4, {"use_kv_events": False}),
        "kv_router_config is {'use_kv_events': False}: give a",
    ),
    case(lambda e: untyped.KvRouter(e, 4, load_threshold_config=0.5), "load_threshold_config is 0.5: give a LoadThres"),
]

OF_QUESTIONS = [
    case(lambda r: r.best_worker(None), "token_ids is None"),
    case(lambda r: r.best_worker("abc"), "token_ids is 'abc'"),
    case(lambda r: r.best_worker([1, -1]), "token 1 of token_ids is -1"),
    case(
        lambda r: r.best_worker([1], {"router_temperature": 1}), "router_config_override is {'router_temperature': 1}"
    ),
    case(
        lambda r: r.best_worker([1], untyped.RouterConfigOverride(router_temperature=NAN)),
        "router_config_override is wrong: router_temperature is nan",
    ),
    case(lambda r: r.best_worker([1], request_id=5), "request_id is 5: give a str, or None"),
    case(lambda r: r.best_worker([1], priority_jump="high"), "priority_jump is 'high': give a finite number"),
    case(lambda r: r.best_worker([1], strict_priority=-1), "strict_priority is -1"),
    case(lambda r: r.best_worker([1], policy_class=5), "policy_class is 5"),
    case(lambda r: r.best_worker([1], session_id=5), "session_id is 5"),
    case(lambda r: r.best_worker([1], routing_constraints=None), "routing_constraints is None"),
    case(lambda r: r.best_worker([1], mm_hashes=[[1]], block_mm_infos=[None]), "mm_hashes and block_mm_infos are both"),
    case(lambda r: r.generate(None), "token_ids is None"),
    case(lambda r: r.generate([1], 5), "model is 5: give a str"),
    case(lambda r: r.generate([1], stop_conditions={"max_tokens": "many"}), "stop_conditions is no StopConditions"),
    case(lambda r: r.generate([1], sampling_options=5), "sampling_options is no SamplingOptions"),
    case(lambda r: r.generate([1], worker_id=-1), "worker_id is -1"),
    case(lambda r: r.generate([1], dp_rank=1024), "dp_rank is 1024"),
    case(lambda r: r.generate([1], extra_args=[1]), "extra_args is [1]: give a dict"),
    case(lambda r: r.generate([1], context="mine"), "context is 'mine': give a Context"),
    case(lambda r: r.generate_from_request({"token_ids": 5}), "request is no PreprocessedRequest"),
    case(lambda r: r.get_overlap_scores(5), "token_ids is 5"),
    case(lambda r: r.get_potential_loads([1], lora_name=5), "lora_name is 5"),
    case(lambda r: r.mark_prefill_complete(None), "request_id is None: give a str"),
    case(lambda r: r.note_tokens("a", 1.5), "num_tokens is 1.5: give an integer from 0"),
    case(lambda r: r.free(5), "request_id is 5: give a str"),
]

OF_CONFIGURATIONS = [
    case(lambda c: c(overlap_credit=1), "no option 'overlap_credit'; did you mean 'overlap_score_credit'? it has"),
    case(lambda c: c(assume_kv_reuse=False), "did you mean 'router_assume_kv_reuse'?"),
    case(lambda c: c(event_threads=4), "event_threads cannot be set: events are applied"),
    case(lambda c: c(use_kv_events="no"), "use_kv_events is 'no'; it must be True or False"),
    case(lambda c: c(router_temperature=NAN), "router_temperature is nan; it must be a number from 0"),
    case(lambda c: c(router_temperature=True), "router_temperature is True"),
    case(lambda c: c(overlap_score_weight="1"), "overlap_score_weight is '1'"),
    case(lambda c: c(queue_size_max=1.5), "queue_size_max is 1.5; it must be an integer"),
    case(lambda c: c(queue_policy="fifo"), "queue_policy is 'fifo'; it is one of fcfs, lcfs, wspt"),
    case(lambda c: c(policy=len), "policy is <built-in function len>; it must be a str, MODULE:NAME"),
    case(lambda c: c(policy_classes="batch"), "policy_classes is 'batch'; it must be a tuple of PolicyClass"),
    case(lambda c: c.from_json('{"queue_treshold": 1}'), "did you mean 'queue_threshold'?"),
    case(lambda c: c.from_json(None), "text is None; it must be JSON"),
    case(lambda c: c.from_fields([1]), "fields is [1]; it must be a mapping"),
    case(lambda c: c().with_overrides({"a": 1}), "overrides is {'a': 1}; it must be a RouterConfigOverride"),
    case(lambda c: c().with_overrides(temprature=1), "did you mean 'router_temperature'?"),
    case(lambda _: untyped.PolicyClass(5), "policy class 5: name is a str"),
    case(lambda _: untyped.PolicyClass("a", quantum="1"), "policy class 'a': quantum is '1'"),
    case(lambda _: untyped.PolicyClass("a", queue_policy=""), "queue_policy is ''; it is one of"),
    case(lambda _: untyped.RouterConfig(5), "mode: 5 is no router mode; there are round-robin"),
    case(
        lambda _: untyped.RouterConfig("kv", {"use_kv_events": True}), "config is {'use_kv_events': True}; it must be a"
    ),
    case(lambda _: untyped.LoadThresholdConfig(NAN), "active_decode_blocks_threshold is nan"),
]


def fails(kind: type[Exception], call: Call, given: object, message: str) -> object:
    with pytest.raises(kind) as caught:
        return call(given)
    assert message in str(caught.value)
    return None


@pytest.mark.parametrize(("call", "message"), [*OF_PUBLISHERS, *OF_INDEXES, *OF_ROUTERS])
async def test_a_wrong_argument_of_what_is_made_for_workers_is_named(call: Call, message: str) -> None:
    async with Host().process() as runtime:
        fails(InvalidArgument, call, endpoint_of(runtime), message)


@pytest.mark.parametrize(("call", "message"), OF_CALLS_TO_PUBLISHERS)
async def test_a_wrong_argument_of_a_call_to_a_publisher_is_named(call: Call, message: str) -> None:
    async with Host().worker() as publisher:
        fails(InvalidArgument, call, publisher, message)


@pytest.mark.parametrize("wrong", [None, "abc", 5, [1.5], [2**64]])
async def test_an_engine_never_sees_a_publisher_fail(wrong: Any) -> None:
    async with Host().worker() as publisher:
        publisher.stored(None, wrong, wrong)
        publisher.stored(None, [1], token_ids=wrong)
        publisher.stored(wrong, [1], [1])
        publisher.removed(wrong)
        assert publisher.num_blocks <= 1
        assert sum(publisher.faults.values()) >= 3


@pytest.mark.parametrize(("call", "message"), OF_TREES)
def test_a_wrong_argument_of_a_tree_is_named(call: Call, message: str) -> None:
    fails(InvalidArgument, call, llm.RadixTree(), message)


@pytest.mark.parametrize(("call", "message"), OF_HASHES)
def test_a_wrong_argument_of_a_function_is_named(call: Call, message: str) -> None:
    fails(InvalidArgument, call, None, message)


@pytest.mark.parametrize(("call", "message"), OF_QUESTIONS)
async def test_a_wrong_argument_of_a_question_to_a_router_is_named(
    call: Callable[[llm.KvRouter], Awaitable[object]], message: str
) -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router() as router:
        with pytest.raises(InvalidArgument) as caught:
            await call(router)
        assert message in str(caught.value)
        assert all(load["active_requests"] == 0 for load in await router.get_potential_loads([]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        case(lambda i: i.find_matches_for_request(None), "tokens is None"),
        case(lambda i: i.find_matches_for_request([-1]), "token 0 of token_ids is -1"),
        case(lambda i: i.find_matches_for_request([1], "a"), "lora_id is 'a': give an integer"),
        case(lambda i: i.find_matches_for_request([1], cache_namespace=5), "cache_namespace is 5"),
        case(lambda i: i.find_matches(None), "hashes is None"),
    ],
)
@pytest.mark.parametrize("kind", ["exact", "approximate"])
async def test_a_wrong_argument_of_a_question_to_an_index_is_named(kind: str, call: Call, message: str) -> None:
    async with Host().process() as runtime:
        component = component_of(endpoint_of(runtime))
        index: Any = (llm.KvIndexer if kind == "exact" else llm.ApproxKvIndexer)(component, BLOCK_SIZE)
        asked: Any = call(index)
        with pytest.raises(InvalidArgument) as caught:
            await asked
        assert message in str(caught.value)


async def test_a_wrong_argument_of_what_an_approximate_index_is_told_is_named() -> None:
    async with Host().process() as runtime:
        index = llm.ApproxKvIndexer(component_of(endpoint_of(runtime)), BLOCK_SIZE)
        with pytest.raises(InvalidArgument, match="worker_id is 'a'"):
            await index.process_routing_decision_for_request([1], "a")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="dp_rank is -1"):
            await index.process_routing_decision_for_request([1], 1, -1)


async def test_a_wrong_argument_of_a_replay_is_named() -> None:
    async with Host().process() as runtime:
        recorder = llm.KvRecorder(component_of(endpoint_of(runtime)))
        with pytest.raises(InvalidArgument, match="indexer is None: give a KvIndexer"):
            await recorder.replay_events(None)  # type: ignore[arg-type]
        await recorder.close()


@pytest.mark.filterwarnings("ignore:overlap_score_weight:DeprecationWarning")
@pytest.mark.parametrize(("call", "message"), OF_CONFIGURATIONS)
def test_a_wrong_option_is_named(call: Call, message: str) -> None:
    fails(ConfigError, call, llm.KvRouterConfig, message)
