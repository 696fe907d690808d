"""The contracts between components, and the JSON Schema of each, made from where it is declared.

What a schema says of a field is the comment that stands above it in the code. A struct that travels as an array has
the names of its fields as the titles of its places.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec
from pydantic import BaseModel

import dynamo.router._messages as router
from dynamo._core import wire
from dynamo._core.event_plane import _envelope, _zmq_reader
from dynamo._core.stability import Tier, stability_of
from dynamo._core.work_queue import _server
from dynamo.llm import _kv_events, _kv_query, _load_stats, _messages, _registration, _request_trace, _wishes
from dynamo.llm._kv_router import decision, replicas
from dynamo.llm._model_card import ModelCard, ModelType
from dynamo.llm._model_config import ModelRuntimeConfig
from dynamo.llm._openai import ChatRequest, CompletionRequest
from dynamo.llm._response_check import STRICT_VARIABLE, Violation
from dynamo.runtime._instances import InstanceRecord

DIALECT = "https://json-schema.org/draft/2020-12/schema"
JSON, MSGPACK, PYTHON = "JSON", "msgpack", "Python"

FRAMES = f"{wire.PROTOCOL_MAJOR}.{wire.PROTOCOL_MINOR}"

Schema = dict[str, Any]

_COMMENT = re.compile(r"\s+#: ?(.*)")
_FIELD = re.compile(r"    (\w+)(?::| = )")


@dataclass(frozen=True)
class Contract:
    """One kind of data, who makes it, and who reads it."""

    name: str
    title: str
    #: A model or struct, or several of them that stand for each other.
    type: object
    written_by: str
    read_by: str
    form: str = MSGPACK
    version: str = "1.0"

    @property
    def stability(self) -> Tier:
        """The tier that stands in the code: the least stable of several. What has none is a line of a file: beta."""
        marks = [stability_of(one) for one in _members(self.type)]
        return max((Tier.BETA if mark is None else mark.tier for mark in marks), key=list(Tier).index)

    def declared_in(self) -> str:
        """The module of the declaration, and its name if there is but one."""
        members = _members(self.type)
        module = members[0].__module__
        return module if len(members) > 1 else f"{module}.{members[0].__name__}"

    def about(self) -> str:
        """The first sentence about it."""
        members = _members(self.type)
        if len(members) > 1:
            return f"One of {', '.join(one.__name__ for one in members)}"
        # Not what a class says that it is derived from.
        text = vars(members[0]).get("__doc__") or self.title
        return " ".join(text.split()).partition(". ")[0].rstrip(".")

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        if isinstance(self.type, type) and issubclass(self.type, BaseModel):
            schema: Schema = self.type.model_json_schema()
        else:
            schema = msgspec.json.schema(self.type, schema_hook=lambda _: {"description": "Plain values."})
        kinds = {one.__name__: one for one in _reachable(self.type)}
        definitions: Schema = schema.pop("$defs", {})
        if schema.keys() == {"$ref"}:
            schema = definitions.pop(schema["$ref"].rpartition("/")[2])
        about = schema.pop("description", "")
        for name, one in (*definitions.items(), *((one.__name__, schema) for one in _members(self.type)[:1])):
            if name in kinds:
                _describe(one, kinds[name])
        schema.pop("title", None)
        head: Schema = {"$schema": DIALECT, "title": self.title, "description": _plain(about), "version": self.version}
        head["stability"] = self.stability
        return head | schema | ({"$defs": dict(sorted(definitions.items()))} if definitions else {})


CLIENT, FRONTEND, WORKER, ROUTER = "a client", "the frontend", "a worker", "a router"
LOAD = "`WorkerMetricsPublisher`"
TEXT_WORKER = "the frontend; a worker that takes text"
NVEXT = "a client, in `nvext`; callers of a router"
BOTH_ENDS, OTHER_END = "both ends of a connection", "the other end"
QUEUE, QUEUED = "the embedded queue", "producers and consumers"
KEPT = "`KvRecorder`, `RadixTree`"
CHAT, COMPLETION = "Body of /v1/chat/completions", "Body of /v1/completions"

CONTRACTS = (
    Contract("worker-stats", "WorkerStats", _load_stats.WorkerStats, WORKER, LOAD, PYTHON),
    Contract("kv-stats", "KvStats", _load_stats.KvStats, WORKER, LOAD, PYTHON),
    Contract("spec-decode-stats", "SpecDecodeStats", _load_stats.SpecDecodeStats, WORKER, LOAD, PYTHON),
    Contract("forward-pass-metrics", "ForwardPassMetrics", _load_stats.ForwardPassMetrics, WORKER, LOAD, PYTHON),
    Contract("model-runtime-config", "ModelRuntimeConfig", ModelRuntimeConfig, WORKER, "`register_llm`", PYTHON),
    Contract("chat-request", CHAT, ChatRequest, CLIENT, TEXT_WORKER, JSON),
    Contract("completion-request", COMPLETION, CompletionRequest, CLIENT, TEXT_WORKER, JSON),
    Contract("routing-constraints", "RoutingConstraints", _wishes.RoutingConstraints, NVEXT, ROUTER, JSON),
    Contract(
        "router-config-override", "RouterConfigOverride", _wishes.RouterConfigOverride, NVEXT, ROUTER, JSON
    ),
    Contract(
        "preprocessed-request", "PreprocessedRequest", _messages.PreprocessedRequest, FRONTEND, f"{WORKER}; {ROUTER}"
    ),
    Contract("engine-output", "EngineOutput", _messages.EngineOutput, WORKER, f"{FRONTEND}; {ROUTER}"),
    Contract("model-card", "Model card", ModelCard, "a worker, in discovery", "frontends; routers", JSON),
    Contract("model-registration", "Model that a person registered", _registration._Record, "`llmctl`", FRONTEND, JSON),
    Contract("instance-record", "Instance of an endpoint", InstanceRecord, "a runtime, in discovery", "clients", JSON),
    Contract(
        "event-channel-record", "Publisher of events", _zmq_reader.ChannelRecord, "a runtime, in discovery",
        "subscribers", JSON,
    ),
    Contract("hello", "Hello", wire.Hello, BOTH_ENDS, OTHER_END, version=FRAMES),
    Contract("frame", "Messages of the request plane", wire.Message, BOTH_ENDS, OTHER_END, version=FRAMES),
    Contract("event", "Event on the event plane", _envelope.Message, "a publisher", "subscribers"),
    Contract("work-queue-request", "Request to a work queue", _server.Request, QUEUED, QUEUE),
    Contract("work-queue-reply", "Answer of a work queue", _server.Reply, QUEUE, QUEUED),
    Contract(
        "load-report", "LoadReport", _load_stats.LOAD_REPORT.struct, "a worker, at `load_metrics`",
        "`KvMetricsAggregator`",
    ),
    Contract("kv-event-batch", "KvEventBatch", _kv_events.KvEventBatch, WORKER, ROUTER),
    Contract("kv-query", "KvQuery", _kv_query.KvQuery, ROUTER, "a worker, at `kv_query`"),
    Contract("kv-answer", "KvAnswer", _kv_query.KvAnswer, "a worker, at `kv_query`", ROUTER),
    Contract("router-event", "RouterEvent", _kv_events.RouterEvent, KEPT, KEPT, JSON),
    Contract("router-news", "News among routers", replicas.Batch, ROUTER, "the routers beside it"),
    Contract("router-query", "Question to a router", router.Query, "callers of a router", ROUTER),
    Contract("router-decision", "Decision, explained", decision.Decision, ROUTER, "whoever asks for it", JSON),
    Contract(
        "request-trace-line", "Line of the request trace", _request_trace.TraceLine, FRONTEND, "`dynamo replay`", JSON
    ),
)  # fmt: skip

HEAD = """\
# Contracts

What one component makes and another reads is declared once, and here is a JSON Schema of each declaration.
`python docs/generate.py` writes this folder from the code.

What people construct is a pydantic model. It refuses what it does not know and what is out of range, by name:

```python
# stats.py
from dynamo.llm import ForwardPassMetrics, KvStats, WorkerStats

print(ForwardPassMetrics(WorkerStats(3, 8), KvStats(120, 1000, gpu_cache_usage_perc=0.12)))
try:
    KvStats(120, 1000, gpu_cache_usage_perc=12)
except Exception as error:
    print(error)
```

```bash
python stats.py
```

```text
worker_stats=WorkerStats(request_active_slots=3, request_total_slots=8, ...
KvStats: 'gpu_cache_usage_perc' is 12; it must be less than or equal to 1
```

What travels between processes is a msgspec struct. It ignores fields that it does not know, since they are of a newer
peer; fields are only ever added, with a default, or at the end where a struct travels as an array. Where people
construct what travels, as they do with a worker's load, the struct is made from the model, so that no field is
written twice.

## What is promised

A contract that is stable changes with a major version only, apart from fields that are added; one that is beta may
change with a minor version. `version` in a schema is the contract's own; that of frames is the version of the
protocol, which both ends of a connection tell each other in their hello: one of another major version is refused.

| Schema | What | Written by | Read by | As | Stability | Declared in |
|---|---|---|---|---|---|---|
"""

TAIL = """
Bytes are `bin` in msgpack, and base64 in JSON. A struct that is an array of places has their names as titles.

## When a worker breaks its word

Frontends hold answers against the contract of `EngineOutput`, or that of the OpenAI chunks of a worker that takes text.
What is wrong is counted in `dynamo_frontend_model_contract_violations_total`, by `model` and `kind`, and told in the
log once a minute for each of them, with the instance and the request. The client gets its whole answer if that can be
had without what is wrong, or else an error:

| Kind | What | What becomes of it |
|---|---|---|
"""


def page() -> str:
    """Return the page that lists the schemas."""
    rows = [
        (
            f"[{one.title}]({one.name}.json)", one.about(), one.written_by, one.read_by, one.form, one.stability,
            f"`{one.declared_in()}`",
        )
        for one in CONTRACTS
    ]  # fmt: skip
    kinds = [(f"`{kind.value}`", *_what_becomes(kind)) for kind in Violation]
    return "".join([HEAD, *map(_row, rows), TAIL, *map(_row, kinds), f"\n{_STRICT}"])


_STRICT = f"""\
With `{STRICT_VARIABLE}=1` in the environment of a frontend all of them are errors: so a worker that is being
developed is seen to be wrong, and so run the tests. That the items of a stream are in order, and none is missing, is
checked below that: each has its place in the frames.
"""


def _what_becomes(kind: Violation) -> tuple[str, str]:
    what, _, becomes = dict(_comments(Violation))[kind.name].partition(": ")
    return what, becomes.rstrip(".")


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _describe(schema: Schema, kind: type) -> None:
    """Add what the comments of a class say of its fields, and the names of the places of an array."""
    if "description" in schema:
        schema["description"] = _plain(schema["description"])
    comments = dict(_comments(kind))
    if kind is ModelCard:
        # A flag is written as the names of what is in it.
        schema["properties"]["model_type"] = {"type": "string", "default": str(ModelType.Chat | ModelType.Completions)}
    for name, field in schema.get("properties", {}).items():
        if name in comments:
            field["description"] = comments[name]
    if "prefixItems" in schema:
        names = list(getattr(kind, "__struct_fields__"))  # noqa: B009
        places = schema["prefixItems"]
        tag = ["tag"] * (len(places) - len(names))
        for name, place in zip([*tag, *names], places, strict=True):
            place["title"] = name
            if name in comments:
                place["description"] = comments[name]


def _comments(kind: type) -> Iterator[tuple[str, str]]:
    """Yield what stands above each field, of the classes that this one is derived from, too."""
    for one in reversed(kind.__mro__):
        if not one.__module__.startswith("dynamo."):
            continue
        above: list[str] = []
        for line in inspect.getsource(one).splitlines():
            if comment := _COMMENT.match(line):
                above.append(comment[1])
                continue
            if above and (field := _FIELD.match(line)):
                yield field[1], " ".join(above).replace("`", "")
            above = []


def _members(kind: object) -> tuple[type, ...]:
    """A class, or those of a union; of a struct that was made of a model, the model."""
    kinds = (kind,) if isinstance(kind, type) else get_args(kind)
    return tuple(getattr(_load_stats, one.__name__) if one.__module__ == _load_stats.__name__ else one for one in kinds)


def _reachable(kind: object) -> set[type]:
    """Every class of ours that is somewhere in the fields of one."""
    found: set[type] = set()
    waiting: list[object] = list(_members(kind))
    while waiting:
        one = waiting.pop()
        waiting.extend(get_args(one))
        if isinstance(one, type) and issubclass(one, BaseModel | msgspec.Struct) and one not in found:
            found.add(one)
            waiting.extend(get_type_hints(one, include_extras=True).values())
    return found


def files() -> dict[str, str]:
    """Return what is in the folder of contracts, by the names of the files."""
    schemas = {f"{one.name}.json": json.dumps(one.schema(), indent=2, default=str) + "\n" for one in CONTRACTS}
    return {"README.md": page(), **schemas}


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("`", "")
