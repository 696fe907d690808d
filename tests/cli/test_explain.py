"""`dynamo explain`: why requests went where they went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.cli.other_servers import answering
from tests.frontend.mocked import BLOCK_SIZE, Mocked, mocked
from typer.testing import CliRunner, Result

from dynamo._core.errors import ProtocolError
from dynamo.cli._app import app
from dynamo.cli._explain_text import explained, listed

PROMPT = list(range(100, 100 + 2 * BLOCK_SIZE + 1))


async def run(*arguments: str) -> Result:
    """Run the command beside the frontend that answers it."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["explain", *arguments])


@asynccontextmanager
async def asked(model: Path, router_mode: str, *, router_use_kv_events: bool = True) -> AsyncIterator[Mocked]:
    """A frontend that has answered two requests with the same prompt."""
    async with mocked(model, workers=2, router_mode=router_mode, router_use_kv_events=router_use_kv_events) as scene:
        for name in ("first", "second"):
            await scene.ask(PROMPT, headers={"x-request-id": name})
        yield scene


async def test_a_request_is_explained_with_its_candidates(tiny_model: Path) -> None:
    async with asked(tiny_model, router_mode="kv", router_use_kv_events=False) as scene:
        result = await run("second", "--url", scene.url)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:2] == ["model mock", "request second: 33 tokens, 3 blocks of 16"]
    assert "chosen by cost; 32 tokens expected in its cache" in lines[2]
    assert "it has 0 of 3 blocks cached, not 2" in result.stdout
    assert all(f"{id:x}" in result.stdout for id in scene.instance_ids)
    assert not any(str(id) in result.stdout for id in scene.instance_ids)


async def test_without_an_id_the_last_requests_are_listed(tiny_model: Path) -> None:
    async with asked(tiny_model, router_mode="kv", router_use_kv_events=False) as scene:
        result = await run("--url", scene.url)
        one = await run("--url", scene.url, "--limit", "1")
    heading, second, first = result.stdout.splitlines()
    assert heading.split() == ["request", "model", "worker", "tokens", "cached", "candidates", "waited", "chosen", "by"]
    assert second.split()[0:2] == ["second", "mock"]
    assert second.split()[2] in {f"{id:x}" for id in scene.instance_ids}
    assert (second.split()[3:], first.split()[3:]) == (
        ["33", "32", "2", "0.0", "ms", "cost"],
        ["33", "0", "2", "0.0", "ms", "cost"],
    )
    assert one.stdout.splitlines() == [heading, second]


async def test_the_simple_modes_are_explained_too(tiny_model: Path) -> None:
    async with asked(tiny_model, router_mode="least-loaded") as scene:
        result = await run("first", "--url", scene.url)
        recent = await run("--url", scene.url)
    assert "request first: router mode least-loaded" in result.stdout
    assert "taken" in result.stdout
    assert "the mode (least-loaded)" in recent.stdout


async def test_as_json_it_is_what_the_frontend_tells(tiny_model: Path) -> None:
    async with asked(tiny_model, router_mode="kv") as scene:
        result = await run("first", "--json", "--url", scene.url)
        named = await scene.ask(PROMPT, headers={"x-dynamo-instance-id": "7a"})
        answer = await scene.http.get("/v1/explain/first")
    assert json.loads(result.stdout) == answer.json()
    (decision,) = answer.json()["decisions"]
    assert decision["worker_id"] in scene.instance_ids
    for told in (decision, *decision["candidates"], decision["round_robin"]):
        assert told["worker"] == f"{told['worker_id']:x}"
    assert named.status_code == 400
    assert "hexadecimal behind 0x, not '7a'" in named.json()["error"]["message"]


@pytest.mark.parametrize("router_mode", ["kv", "least-loaded", "round-robin"])
async def test_a_request_can_name_its_worker_as_it_is_shown_behind_0x(tiny_model: Path, router_mode: str) -> None:
    async with asked(tiny_model, router_mode=router_mode) as scene:
        shown = (await scene.ask(PROMPT, headers={"x-dynamo-explain": "1"})).json()["nvext"]["explain"]["decisions"]
        id = shown[0]["worker"]
        headers = {"x-dynamo-worker-instance-id": f"0x{id}", "x-dynamo-explain": "1"}
        for answer in (
            await scene.ask(PROMPT, headers=headers),
            await scene.ask(PROMPT, nvext={"backend_instance_id": f"0x{id}", "explain": True}),
        ):
            (decision,) = answer.json()["nvext"]["explain"]["decisions"]
            assert (decision["worker"], decision["worker_id"]) == (id, shown[0]["worker_id"])
            assert {one["worker"] for one in decision["excluded"]} == {f"{other:x}" for other in scene.instance_ids} - {
                id
            }


async def test_a_request_that_is_not_known_is_one_line(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        nobody = await run("nobody", "--url", scene.url)
    assert (nobody.exit_code, nobody.stdout, nobody.stderr.count("\n")) == (1, "", 1)
    assert nobody.stderr.startswith("error: no decision is known on a request 'nobody'")
    assert "the last ones on each model are kept, until its last worker leaves" in nobody.stderr
    assert "`python -m dynamo.router` tells its own at its endpoint `explain`" in nobody.stderr


@pytest.mark.parametrize("id", ["a/b c", "a?b", "ü", "", "a\nb"])
async def test_an_id_that_no_request_can_have_is_refused_with_what_ids_are(tiny_model: Path, id: str) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        result = await run(id, "--url", scene.url)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"error: no request has the id {id!r}: ids are of letters, digits and . _ : -")


async def test_whatever_id_a_frontend_takes_can_be_asked_for(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        taken = await scene.ask(PROMPT, headers={"x-request-id": "aZ09_.:-"})
        refused = [(await scene.ask(PROMPT, headers={"x-request-id": id})).status_code for id in ("a/b c", "a?b")]
        result = await run("aZ09_.:-", "--url", scene.url)
    assert (taken.status_code, refused) == (200, [400, 400])
    assert "request aZ09_.:-: 33 tokens" in result.stdout


async def test_where_no_decisions_are_known_it_says_of_which_requests_there_are_some(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        failed = await scene.ask(PROMPT, nvext={"routing_constraints": {"required_taints": ["none-has-it"]}})
        result = await run("--url", scene.url)
    assert failed.status_code == 503
    assert result.stdout.startswith("no decisions are known: ")
    assert "requests that were given a worker" in result.stdout
    assert "until the last worker of the model leaves" in result.stdout


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "no frontend answers at http://127.0.0.1:1: "),
        ("127.0.0.1:8000", "--url '127.0.0.1:8000' is not a URL like http://127.0.0.1:8000"),
        ("file:///etc/passwd", "--url 'file:///etc/passwd' is not a URL"),
        ("http://..:80", "--url 'http://..:80' is not a URL"),
        ("http://127.0.0.1:1/ü", "--url 'http://127.0.0.1:1/ü' is not a URL"),
        ("http://127.0.0.1:1?x", "--url 'http://127.0.0.1:1?x' has more than a frontend's URL"),
        ("http://user:secret@127.0.0.1:1", "--url 'http://***@127.0.0.1:1' has more than a frontend's URL"),
    ],
)
async def test_where_no_frontend_is_that_is_said(url: str, words: str) -> None:
    result = await run("--url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {words}")


async def test_no_proxy_is_asked_for_what_is_on_this_machine() -> None:
    with answering(b'{"decisions": []}') as port:
        arguments = ["explain", "--url", f"http://127.0.0.1:{port}"]
        environment = {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
    assert result.stdout.startswith("no decisions are known")


def test_warnings_come_first() -> None:
    text = listed(b'{"decisions": [], "warnings": ["nothing is found"]}')
    assert text.splitlines()[0] == "warning: nothing is found"


@pytest.mark.parametrize("read", [explained, listed])
@pytest.mark.parametrize("answer", [b"", b"{}", b'{"decisions": [{}]}', b"<html>"])
def test_an_answer_of_something_else_is_an_error(read: Callable[[bytes], str], answer: bytes) -> None:
    with pytest.raises(ProtocolError, match="not one of this version"):
        read(answer)
