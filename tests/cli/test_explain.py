"""`dynamo explain`: why requests went where they went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
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
async def asked(model: Path, router_mode: str, **settings: object) -> AsyncIterator[Mocked]:
    """A frontend that has answered two requests with the same prompt."""
    async with mocked(model, workers=2, router_mode=router_mode, **settings) as scene:
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
    assert all(str(id) in result.stdout for id in scene.instance_ids)


async def test_without_an_id_the_last_requests_are_listed(tiny_model: Path) -> None:
    async with asked(tiny_model, router_mode="kv", router_use_kv_events=False) as scene:
        result = await run("--url", scene.url)
        one = await run("--url", scene.url, "--limit", "1")
    heading, second, first = result.stdout.splitlines()
    assert heading.split() == ["request", "model", "worker", "tokens", "cached", "candidates", "waited", "chosen", "by"]
    assert second.split()[0:2] == ["second", "mock"]
    assert (second.split()[3:], first.split()[3:]) == (["33", "32", "2", "cost"], ["33", "0", "2", "cost"])
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
        answer = await scene.http.get("/v1/explain/first")
    assert json.loads(result.stdout) == answer.json()


async def test_a_request_that_is_not_known_is_one_line(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1, router_mode="kv") as scene:
        for unknown in ("nobody", "a/b?c", "ü"):
            result = await run(unknown, "--url", scene.url)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
        empty = await run("--url", scene.url)
        assert empty.stdout.startswith("no decisions yet")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "no frontend answers at http://127.0.0.1:1: "),
        ("127.0.0.1:8000", "--url '127.0.0.1:8000' is not a URL like http://127.0.0.1:8000"),
        ("file:///etc/passwd", "--url 'file:///etc/passwd' is not a URL"),
    ],
)
async def test_where_no_frontend_is_that_is_said(url: str, words: str) -> None:
    result = await run("--url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {words}")


def test_warnings_come_first() -> None:
    text = listed(b'{"decisions": [], "warnings": ["nothing is found"]}')
    assert text.splitlines()[0] == "warning: nothing is found"


@pytest.mark.parametrize("read", [explained, listed])
@pytest.mark.parametrize("answer", [b"", b"{}", b'{"decisions": [{}]}', b"<html>"])
def test_an_answer_of_something_else_is_an_error(read: Callable[[bytes], str], answer: bytes) -> None:
    with pytest.raises(ProtocolError, match="not one of this version"):
        read(answer)
