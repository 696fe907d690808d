"""The schemas in `docs/contracts` are those of the code, and what is written and read fits them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from docs.contract_schemas import CONTRACTS, MSGPACK, PYTHON, Contract, files
from docs.generate import CONTRACTS as FOLDER
from pydantic import BaseModel, ValidationError
from tests.docs.json_schema import faults

from dynamo._core import wire
from dynamo._core.errors import DynamoError, to_wire
from dynamo._core.event_plane import _envelope
from dynamo._core.event_plane._zmq_reader import ChannelRecord
from dynamo._core.stability import Tier
from dynamo._core.work_queue import _server
from dynamo.llm import (
    CompletionUsage,
    EngineOutput,
    ForwardPassMetrics,
    KvStats,
    PreprocessedRequest,
    PromptTokensDetails,
    RouterConfigOverride,
    RoutingConstraints,
    SpecDecodeStats,
    TopLogprob,
    WorkerStats,
)
from dynamo.llm._kv_events import KvEventBatch, Removed, RouterEvent, Stored, router_events
from dynamo.llm._kv_query import Known, KvAnswer, KvQuery
from dynamo.llm._kv_router import replicas
from dynamo.llm._kv_router.decision import CandidateTerms, ChosenBy, Decision, RoundRobinChoice
from dynamo.llm._load_stats import LoadReport
from dynamo.llm._model_card import ModelCard
from dynamo.llm._model_config import ModelRuntimeConfig
from dynamo.llm._openai import ChatRequest, CompletionRequest
from dynamo.llm._registration import Kind as RegisteredKind
from dynamo.llm._registration import _Endpoint, _Record
from dynamo.llm._request_trace import TraceLine
from dynamo.llm._wishes import Wishes
from dynamo.router._messages import Query
from dynamo.runtime._instances import InstanceRecord

STATS = WorkerStats(3, 8, 2, data_parallel_rank=1)
CACHE = KvStats(120, 1000, 0.12, 0.5)
DRAFTS = SpecDecodeStats(4, 10, 40, 30, [10, 9, 8, 3])
LOAD = ForwardPassMetrics(STATS, CACHE, DRAFTS)
WISHES = Wishes(
    dp_rank=1, priority=2.0, session_id="s", routing_constraints=RoutingConstraints(frozenset({"fast"}), {"near": 1.0})
)
EVENTS = KvEventBatch(7, 0, 7, 16, 99, 1, [Stored(None, bytes(16), bytes(16)), Removed(bytes(8))])

#: By the name of the contract, what somebody writes.
WRITTEN: dict[str, list[object]] = {
    "worker-stats": [STATS, WorkerStats(0, 1, 0, None)],
    "kv-stats": [CACHE],
    "spec-decode-stats": [DRAFTS, SpecDecodeStats()],
    "forward-pass-metrics": [LOAD, ForwardPassMetrics(STATS, CACHE)],
    "model-runtime-config": [ModelRuntimeConfig.model_validate({"total_kv_blocks": 1000})],
    "chat-request": [ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}], stop=["END"], n=2)],  # type: ignore[list-item]
    "completion-request": [CompletionRequest(model="m", prompt=[1, 2]), CompletionRequest(model="m", prompt="hi")],
    "routing-constraints": [RoutingConstraints(frozenset({"fast"}), {"near": 1.0}), RoutingConstraints()],
    "router-config-override": [RouterConfigOverride(0.5, assume_kv_reuse=True)],
    "preprocessed-request": [
        PreprocessedRequest("m", [1, 2]),
        PreprocessedRequest("m", [1], dp_rank=0, routing=WISHES, cache_salt="s", extra_args={"a": [1, {"b": None}]}),
    ],
    "engine-output": [
        EngineOutput([1]),
        EngineOutput(
            [2], 0, "stop", [-0.5], [[TopLogprob(1, 2, -0.5)]],
            CompletionUsage(3, 2, 5, prompt_tokens_details=PromptTokensDetails(1)),
        ),
    ],
    "model-registration": [_Record("m", _Endpoint("ns", "comp", "ep"), RegisteredKind.Chat)],
    "instance-record": [InstanceRecord("ns", "comp", "ep", 2**64 - 1, {"tcp": "127.0.0.1:1"})],
    "event-channel-record": [ChannelRecord({"zmq": "tcp://127.0.0.1:1"})],
    "hello": [wire.Hello(), wire.Hello(1, 7, ["a"], b"nonce")],
    "frame": [
        wire.Hello(), wire.Request(1, "ep", b"x", "r1", 10, 2.5, {"a": "b"}), wire.Items(1, 0, [b"x"]),
        wire.Final(1, 1), wire.Error(1, 0, to_wire(DynamoError("no", a=1))), wire.Cancel(1), wire.Credit(1, 2),
        wire.Heartbeat(), wire.Proof(b"x"),
    ],
    "event": [_envelope.Message(1, 2, 3, "t", b"x")],
    "work-queue-request": [_server.Request("enqueue", b"x")],
    "work-queue-reply": [_server.Reply(3)],
    "load-report": [LoadReport([LOAD]), LoadReport([])],
    "kv-event-batch": [EVENTS],
    "kv-query": [KvQuery([Known(7, 0, 99, 1)])],
    "kv-answer": [KvAnswer(7, 0, 16, 99, 1, False, True, True, EVENTS.events)],
    "router-event": list(router_events(msgspec.structs.replace(EVENTS, events=EVENTS.events[:1]))),
    "router-news": [replicas.Batch(1, 16, [replicas.Added(1, 7, 0, 32, 0, [5]), replicas.Bound("s", 7, 0)])],
    "router-query": [Query([1, 2]), Query([1], routing=WISHES, request_id="r1", update_indexer=True)],
    "router-decision": [
        Decision(
            "r1", 33, 3, 16, 7, 0, ChosenBy.COST, 16, [CandidateTerms(7, 0, 1, 0, 2.0, 3, 1, 5.0)],
            round_robin=RoundRobinChoice(8, 0, 0),
        )
    ],
    "request-trace-line": [TraceLine(1.5, 10, 2, [1], 16, "r1", "m", is_complete=True)],
}  # fmt: skip


def plain(contract: Contract, value: object) -> Any:
    """What travels of a value, or is typed, as JSON has it."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=contract.form != PYTHON)
    elif contract.form == MSGPACK:
        value = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    return json.loads(msgspec.json.encode(value))


def read(contract: Contract, value: object) -> object:
    """Read what somebody has written, as the code does; raises if it cannot be read."""
    kind: Any = contract.type
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_validate(value)
    return msgspec.json.decode(msgspec.json.encode(value), type=kind)


def is_read(contract: Contract, value: object) -> bool:
    try:
        read(contract, value)
    except (DynamoError, ValidationError, msgspec.ValidationError):
        return False
    return True


def by_name(name: str) -> Contract:
    return next(one for one in CONTRACTS if one.name == name)


def test_the_tier_of_a_contract_is_the_one_in_the_code() -> None:
    tiers = {contract.name: contract.stability for contract in CONTRACTS}
    assert tiers["engine-output"] is Tier.STABLE
    assert tiers["kv-query"] is Tier.BETA
    assert tiers["request-trace-line"] is Tier.BETA  # a file


def test_the_folder_is_what_the_code_says() -> None:
    """Run `python docs/generate.py`."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == files()


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda one: one.name)
def test_a_schema_says_what_it_is_of(contract: Contract) -> None:
    schema = json.loads((FOLDER / f"{contract.name}.json").read_text())
    assert all(schema[word] for word in ("$schema", "title", "version", "stability"))
    assert schema["description"] or "anyOf" in schema or contract.name.startswith("work-queue")


@pytest.mark.parametrize("contract", [one for one in CONTRACTS if one.name != "model-card"], ids=lambda one: one.name)
def test_what_is_written_fits_the_schema_and_can_be_read(contract: Contract) -> None:
    for value in WRITTEN[contract.name]:
        assert faults(contract.schema(), plain(contract, value)) == []
        assert is_read(contract, plain(contract, value))


def test_the_card_of_a_real_model_fits_the_schema(tiny_model: Path) -> None:
    card = ModelCard.from_local_path(tiny_model, runtime_config={"total_kv_blocks": 1000})
    written = json.loads(card.to_json())
    assert faults(by_name("model-card").schema(), written) == []
    assert ModelCard.from_json(json.dumps(written | {"of_a_newer_peer": [1]}).encode()) == card
    assert faults(by_name("model-card").schema(), {"display_name": 1}) != []


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "golden" / "wire").glob("*.hex")), ids=lambda p: p.stem
)
def test_frames_of_older_releases_fit_the_schema(path: Path) -> None:
    frame = bytes.fromhex("".join(path.read_text().split()))
    for message in msgspec.msgpack.decode(frame[wire.HEADER.size :]):
        assert faults(by_name("frame").schema(), json.loads(msgspec.json.encode(message))) == []


#: What peers send each other; of what people write, what is unknown is a mistake.
SENT = [
    one
    for one in CONTRACTS
    if one.name not in ("routing-constraints", "router-config-override", "model-card")
    and not (isinstance(one.type, type) and issubclass(one.type, BaseModel))
]


@pytest.mark.parametrize("contract", SENT, ids=lambda one: one.name)
def test_what_a_newer_peer_has_added_is_ignored(contract: Contract) -> None:
    # Of an array nothing can be added but at its end: that of one with all its places.
    written = max((plain(contract, one) for one in WRITTEN[contract.name]), key=len)
    newer = [*written, "new"] if isinstance(written, list) else written | {"of_a_newer_peer": [1, {"a": 2}]}
    assert is_read(contract, newer)
    assert faults(contract.schema(), newer) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("worker-stats", {"request_active_slots": -1}),
        ("worker-stats", {"request_total_slots": None}),
        ("worker-stats", {"data_parallel_rank": 1024}),
        ("worker-stats", {"of_nobody": 1}),
        ("kv-stats", {"gpu_cache_usage_perc": 1.5}),
        ("kv-stats", {"kv_total_blocks": "many"}),
        ("spec-decode-stats", {"num_accepted_tokens_per_pos": [1, -1]}),
        ("forward-pass-metrics", {"kv_stats": None}),
        ("load-report", {"ranks": [{}]}),
        ("chat-request", {"messages": []}),
        ("chat-request", {"of_nobody": 1}),
        ("completion-request", {"logprobs": -1}),
        ("routing-constraints", {"of_nobody": 1}),
        ("router-config-override", {"router_temperature": "hot"}),
        ("preprocessed-request", {"token_ids": [1, -1]}),
        ("preprocessed-request", {"model": None}),
        ("preprocessed-request", {"stop_conditions": {"max_tokens": 0}}),
        ("preprocessed-request", {"sampling_options": {"n": 0}}),
        ("preprocessed-request", {"output_options": {"logprobs": -1}}),
        ("preprocessed-request", {"routing": {"dp_rank": 1024}}),
        ("engine-output", {"finish_reason": "tired"}),
        ("engine-output", {"token_ids": "many"}),
        ("instance-record", {"transport": {"tcp": 5}}),
        ("router-query", {"request_id": "r" * 1000}),
        ("work-queue-request", {"what": "steal"}),
    ],
)
def test_the_schema_and_the_code_refuse_the_same(name: str, changes: dict[str, object]) -> None:
    contract = by_name(name)
    written = plain(contract, WRITTEN[name][0]) | changes
    assert faults(contract.schema(), written) != []
    assert not is_read(contract, written)


def test_the_page_names_every_schema_and_no_other() -> None:
    page = (FOLDER / "README.md").read_text()
    assert [one for one in CONTRACTS if f"({one.name}.json)" not in page] == []
    assert page.count(".json)") == len(CONTRACTS) == len(set(CONTRACTS))


def test_recordings_can_be_read() -> None:
    [event] = WRITTEN["router-event"]
    assert msgspec.json.decode(msgspec.json.encode(event), type=RouterEvent) == event
