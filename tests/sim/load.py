"""The requests of a run: each is sent, watched to its end, and held against what it should have been."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
from tests.sim.asgi import Answer, post
from tests.sim.cluster import MODEL, Caller, Cluster, Frontend
from tests.sim.engine import SimEngine
from tests.sim.host import Host
from tests.sim.scenario import Ask, BulkCall, Call, HttpRequest

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError
from dynamo.llm import EngineOutput, PreprocessedRequest, StopConditions
from dynamo.runtime import Client

#: What a request of a cluster with faults may end with, besides its answer. Anything else is a fault of ours.
CODES = frozenset(
    ("cannot_connect", "disconnected", "stalled", "engine_shutdown", "worker_unavailable", "no_instances", "overloaded")
)
#: And what it may end with besides at a frontend, or for a caller who has a deadline, or who leaves.
FRONTEND_CODES = CODES | {"deadline_exceeded", "poisoned_request", "no_worker_left"}

#: A stream whose worker is lost or stops goes on elsewhere within so long.
PAUSE_MAX_S = 10.0
#: A caller who has a deadline hears by then, and no later.
LATE_MAX_S = 0.1


@dataclass
class Choice:
    """One answer to a prompt, as far as it came."""

    text: str = ""
    finish_reason: str | None = None


@dataclass
class Outcome:
    """How a request ended."""

    name: str
    #: "finished", "failed", "left" by its client, or "lost" with its frontend or caller.
    how: str = "running"
    code: str = ""
    choices: dict[int, Choice] = field(default_factory=dict)
    num_tokens: int | None = None
    token_ids: list[int] = field(default_factory=list)
    longest_pause_s: float = 0.0
    ended_at: float = 0.0
    wrongs: list[str] = field(default_factory=list)


Reference = dict[Ask, Outcome]


def body_of(ask: Ask, *, is_stream: bool) -> dict[str, object]:
    """The body of a request."""
    body: dict[str, object] = {"model": MODEL, "max_tokens": ask.max_tokens, "stream": is_stream, "temperature": 0}
    if ask.is_chat:
        body["messages"] = [{"role": "user", "content": ask.prompt}]
    else:
        body["prompt"] = ask.prompt
    if ask.stop is not None:
        body["stop"] = [ask.stop]
    if ask.n > 1:
        body["n"] = ask.n
    if is_stream:
        body["stream_options"] = {"include_usage": True}
    return body


async def send_http(frontend: Frontend, request: HttpRequest, outcome: Outcome) -> None:
    """Send a request to a frontend, and note how it ended."""
    loop = asyncio.get_running_loop()
    answer = Answer()
    assert frontend.app is not None
    leave_at = None if request.leave_after_s is None else loop.time() + request.leave_after_s
    path = "/v1/chat/completions" if request.ask.is_chat else "/v1/completions"
    await post(
        frontend.app, frontend.host, path, body_of(request.ask, is_stream=request.is_stream), answer,
        request_id=request.name, leave_at=leave_at, read_pause_s=request.read_pause_s,
    )  # fmt: skip
    has_left = leave_at is not None and loop.time() >= leave_at
    read_answer(answer, outcome, is_stream=request.is_stream, has_left=has_left)


def read_answer(answer: Answer, outcome: Outcome, *, is_stream: bool, has_left: bool = False) -> None:
    """Note in `outcome` what an answer says."""
    outcome.wrongs += answer.misdeeds
    outcome.longest_pause_s = answer.longest_pause_s
    if answer.error is not None:
        outcome.wrongs.append(f"the application raised {answer.error!r}")
    is_json = answer.status is not None and (answer.status != 200 or not is_stream)
    if is_json and answer.is_complete:
        _read_json(msgspec.json.decode(answer.body), outcome)
    elif not is_json:
        _read_events(answer, outcome)
    if outcome.how != "running":
        return
    if has_left:
        outcome.how = "left"
    elif not answer.is_over:
        outcome.how = "lost"
    else:
        outcome.wrongs.append(f"the answer just ended: {answer.body[-200:]!r}")


def _read_events(answer: Answer, outcome: Outcome) -> None:
    events = answer.body.decode().split("\n\n")
    if events.pop():
        outcome.wrongs.append("an event has no end")
    for event in events:
        data = event.removeprefix("data: ")
        if outcome.how != "running":
            outcome.wrongs.append(f"more after the end: {data[:100]}")
        elif data == "[DONE]":
            outcome.how = "finished"
        else:
            _read_json(msgspec.json.decode(data), outcome, is_chunk=True)
    if answer.is_complete and outcome.how == "running":
        outcome.wrongs.append("a stream without [DONE] and without an error")


def _read_json(body: dict[str, object], outcome: Outcome, *, is_chunk: bool = False) -> None:
    if "error" in body:
        error = msgspec.convert(body["error"], dict[str, object])
        outcome.how, outcome.code = "failed", str(error["code"])
        return
    for one in msgspec.convert(body.get("choices", []), list[dict[str, object]]):
        choice = outcome.choices.setdefault(msgspec.convert(one["index"], int), Choice())
        if choice.finish_reason is not None:
            outcome.wrongs.append("more of a choice after its finish reason")
        message = msgspec.convert(one.get("delta") or one.get("message") or {}, dict[str, object])
        choice.text += str(message.get("content") or one.get("text") or "")
        if one.get("finish_reason") is not None:
            choice.finish_reason = str(one["finish_reason"])
    if body.get("usage") is not None:
        outcome.num_tokens = msgspec.convert(body["usage"], dict[str, object])["completion_tokens"]  # type: ignore[assignment]
    if not is_chunk:
        outcome.how = "finished"


def check_http(request: HttpRequest, outcome: Outcome, reference: Outcome, *, must_finish: bool = False) -> list[str]:
    """Say what is wrong with how a request ended."""
    wrongs = list(outcome.wrongs)
    if must_finish and outcome.how not in ("finished", "left"):
        wrongs.append(f"{outcome.how} {outcome.code}, although a worker was well all the time")
    if must_finish and request.is_stream and not request.read_pause_s and outcome.longest_pause_s > PAUSE_MAX_S:
        wrongs.append(f"nothing came for {outcome.longest_pause_s:.1f} s")
    for index, choice in outcome.choices.items():
        expected = reference.choices[index]
        if not expected.text.startswith(choice.text):
            wrongs.append(f"choice {index} is {choice.text!r}, not {expected.text!r}")
        if choice.finish_reason is not None and choice != expected:
            wrongs.append(f"choice {index} ends as {choice}, not {expected}")
    if outcome.how == "finished":
        if outcome.choices != reference.choices:
            wrongs.append(f"finished with {outcome.choices}, not {reference.choices}")
        if outcome.num_tokens != reference.num_tokens:
            wrongs.append(f"counted {outcome.num_tokens} tokens, not {reference.num_tokens}")
    elif outcome.how == "failed" and outcome.code not in FRONTEND_CODES:
        wrongs.append(f"failed with {outcome.code!r}")
    elif outcome.how == "left" and request.leave_after_s is None:
        wrongs.append("left, although it stayed")
    elif outcome.how == "running":
        wrongs.append("never ended")
    return [f"{request.name}: {wrong}" for wrong in wrongs]


async def send_call(cluster: Cluster, caller: Caller, call: Call, outcome: Outcome) -> None:
    """Have a caller send a request, and note how it ended."""
    loop = asyncio.get_running_loop()
    assert caller.client is not None
    deadline = None if call.timeout_s is None else loop.time() + call.timeout_s
    context = Context(call.name, deadline=deadline)
    task = caller.host.run(_call(caller.client, call, context, outcome), name=call.name)
    timer = None
    if call.leave_after_s is not None:
        timer = loop.call_later(call.leave_after_s, _leave, caller.host, call, context, task)
    while not task.done() and not caller.host.is_dead:
        await asyncio.wait([task], timeout=1.0)
    if timer is not None:
        timer.cancel()
    late_s = 0.0 if deadline is None else outcome.ended_at - deadline
    if late_s > LATE_MAX_S and not caller.host.was_stopped:
        outcome.wrongs.append(f"ended {late_s:.3f} s after its deadline")
    if not task.done():
        outcome.how = "lost"
    elif not task.cancelled() and task.exception() is not None:
        outcome.wrongs.append(f"raised {task.exception()!r}")


def _leave(host: Host, call: Call, context: Context, task: asyncio.Task[None]) -> None:
    async def leave() -> None:
        if call.leave_by == "stop":
            context.stop_generating()
        elif call.leave_by == "kill":
            context.kill()
        else:
            task.cancel()

    if not task.done() and not host.is_dead:
        host.run(leave())


async def _call(client: Client, call: Call, context: Context, outcome: Outcome) -> None:
    request = PreprocessedRequest(MODEL, list(call.token_ids), StopConditions(max_tokens=call.max_tokens))
    now = asyncio.get_running_loop().time
    heard_at = now()
    try:
        send = client.round_robin if call.way == "round_robin" else client.generate
        stream = await send(request, context=context, item_type=EngineOutput)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                outcome.longest_pause_s, heard_at = max(outcome.longest_pause_s, now() - heard_at), now()
                if outcome.how != "running":
                    outcome.wrongs.append("more after the finish reason")
                outcome.token_ids += output.token_ids
                if output.finish_reason is not None:
                    outcome.how, outcome.code = "finished", output.finish_reason
        if outcome.how == "running":
            outcome.wrongs.append("the stream just ended")
    except asyncio.CancelledError:
        outcome.how = "left"
    except DynamoError as error:
        outcome.how, outcome.code = "failed", error.code
    finally:
        outcome.ended_at = now()
        outcome.longest_pause_s = max(outcome.longest_pause_s, now() - heard_at)


async def send_bulk(cluster: Cluster, caller: Caller, call: BulkCall, outcome: Outcome) -> None:
    """Have a caller read a large answer, and note how it ended."""
    assert caller.bulk is not None
    reading = cluster.bulk.read(caller.bulk, call.name, call.num_items, call.read_pause_s)
    task = caller.host.run(reading, name=call.name)
    while not task.done() and not caller.host.is_dead:
        await asyncio.wait([task], timeout=1.0)
    if not task.done():
        outcome.how = "lost"
    elif (error := task.exception()) is not None:
        outcome.how = "failed"
        outcome.wrongs.append(f"raised {error!r}")
    elif task.result() == "finished":
        outcome.how = "finished"
    else:
        outcome.how, outcome.code = "failed", task.result()


def check_bulk(call: BulkCall, outcome: Outcome) -> list[str]:
    """Say what is wrong with how a large answer ended."""
    wrongs = list(outcome.wrongs)
    if outcome.how == "failed" and outcome.code and outcome.code not in CODES:
        wrongs.append(f"failed with {outcome.code!r}")
    return [f"{call.name}: {wrong}" for wrong in wrongs]


def check_call(call: Call, outcome: Outcome, engine: type[SimEngine] = SimEngine) -> list[str]:
    """Say what is wrong with how a call ended."""
    wrongs = list(outcome.wrongs)
    request = PreprocessedRequest(MODEL, list(call.token_ids), StopConditions(max_tokens=call.max_tokens))
    expected = engine.expected_tokens(request)
    got = outcome.token_ids
    if got != expected[: len(got)]:
        wrongs.append(f"got {got}, not {expected}")
    if outcome.how == "finished":
        stopped = call.leave_after_s is not None and outcome.code == "cancelled"
        if got != expected and not stopped:
            wrongs.append(f"finished ({outcome.code}) with {len(got)} of {len(expected)} tokens")
    elif outcome.how == "failed" and outcome.code not in _codes_of(call):
        wrongs.append(f"failed with {outcome.code!r}")
    elif outcome.how == "left" and call.leave_after_s is None:
        wrongs.append("was cancelled by nobody")
    elif outcome.how == "running":
        wrongs.append("never ended")
    return [f"{call.name}: {wrong}" for wrong in wrongs]


def _codes_of(call: Call) -> set[str]:
    deadline = set() if call.timeout_s is None else {"deadline_exceeded"}
    return deadline.union(CODES, () if call.leave_after_s is None else ("cancelled",))
