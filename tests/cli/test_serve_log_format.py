"""`dynamo serve --log-format json`: every line of both streams is a JSON object."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.serving import Serving

from dynamo.sdk._console import LINE_BYTES_MAX
from dynamo.sdk._json_console import JsonConsole

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

Serve = Callable[..., Awaitable[Serving]]

GRAPH = """
import logging, sys
from dynamo.sdk import *

logger = logging.getLogger("mine")

@service(dynamo={"namespace": "test"})
class Talker:
    @async_on_start
    async def start(self):
        logger.info("logged %s", 1)
        print("printed")
        print('{"message": "an object", "extra": [1]}')
        sys.stderr.buffer.write(b"\\xff not UTF-8\\n")
        sys.stderr.buffer.flush()

    @dynamo_endpoint
    async def call(self, request):
        return request
"""


async def relayed(*chunks: bytes, label: str = "A:1") -> list[bytes]:
    """The lines that the chunks of a worker become."""
    out = io.BytesIO()
    reader = asyncio.StreamReader()
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    await JsonConsole(out, io.BytesIO(), {}).relay(reader, label, out)
    return out.getvalue().splitlines()


class Interrupted(io.BytesIO):
    """A stream of which every write is cut short by a signal."""

    def write(self, data: Buffer) -> int:
        return super().write(bytes(data)[:5])


async def relayed_object(line: bytes) -> dict[str, object]:
    [only] = await relayed(line + b"\n")
    entry = json.loads(only)
    assert isinstance(entry, dict)
    return entry


async def test_an_object_gets_the_worker_that_wrote_it() -> None:
    assert await relayed_object(b'{"message": "hello", "deep": {"a": [1, null]}}') == {
        "message": "hello",
        "deep": {"a": [1, None]},
        "service": "A",
        "worker_id": 1,
    }


async def test_numbers_of_an_object_stay_as_they_are_written() -> None:
    [line] = await relayed(b'{"big": 123456789012345678901234567890, "exact": 0.10}\n')
    assert b"123456789012345678901234567890" in line
    assert b"0.10" in line


@pytest.mark.parametrize(
    "line",
    [
        b"text",
        b"",
        b"[1, 2]",
        b'"text"',
        b"1",
        b"null",
        b'{"cut": ',
        b'{"a": NaN}',
        b'{"a": 1} {"b": 2}',
        b'{"a": "\\ud800"}',
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
)
async def test_a_line_that_is_no_object_is_a_message(line: bytes) -> None:
    entry = await relayed_object(line)
    assert entry.pop("time")
    message = {"message": line.decode(), "level": "INFO", "target": "stdout", "service": "A", "worker_id": 1}
    assert entry == message


async def test_bytes_that_are_no_text_are_replaced() -> None:
    assert (await relayed_object(b'{"a": "\xff"}'))["message"] == '{"a": "\ufffd"}'


async def test_a_line_that_is_too_long_becomes_several_objects() -> None:
    lines = await relayed(b"x" * (3 * LINE_BYTES_MAX) + b"\n")
    assert "".join(json.loads(line)["message"] for line in lines) == "x" * (3 * LINE_BYTES_MAX)


async def test_what_the_import_prints_has_no_number() -> None:
    [line] = await relayed(b"hello\n", label="graph")
    entry = json.loads(line)
    assert (entry["service"], entry["worker_id"]) == ("graph", None)


@given(st.lists(st.binary(max_size=200)))
def test_whatever_a_worker_writes_every_line_is_an_object(chunks: list[bytes]) -> None:
    for line in asyncio.run(relayed(*chunks)):
        entry = json.loads(line)
        assert (entry["service"], entry["worker_id"]) == ("A", 1)


def test_lines_of_our_own_have_a_target_of_their_own() -> None:
    out, err = io.BytesIO(), io.BytesIO()
    console = JsonConsole(out, err, {})
    console.say("ready\nnow")
    console.warn("careful")
    console.error("one\ntwo \udcff")
    entries = [json.loads(line) for line in (out.getvalue() + err.getvalue()).splitlines()]
    assert all(entry["target"] == "dynamo.serve" for entry in entries)
    assert [(entry["level"], entry["message"]) for entry in entries] == [
        ("INFO", "ready\nnow"),
        ("WARNING", "careful"),
        ("ERROR", "one"),
        ("ERROR", "two \\udcff"),
    ]


def test_a_write_that_is_cut_short_goes_on() -> None:
    out = Interrupted()
    JsonConsole(out, out, {}).say("ready")
    assert json.loads(out.getvalue())["message"] == "ready"


# A whole graph.


async def test_every_line_of_a_graph_is_an_object(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "graph.py").write_text(GRAPH)
    serving = await serve("graph:Talker", "--log-format", "json", "--Talker.mesage=1")
    await serving.line('"message":"ready in ')
    serving.interrupt()
    assert await serving.exit_status() == 0
    entries = [json.loads(line) for line in [*serving.out, *serving.err]]
    of_worker = {entry["message"]: entry for entry in entries if entry.get("service") == "Talker"}
    assert {"logged 1", "printed", "an object", "\ufffd not UTF-8"} <= set(of_worker)
    assert all(entry["worker_id"] == 1 for entry in of_worker.values())
    assert of_worker["logged 1"]["target"] == "mine"
    assert of_worker["an object"]["extra"] == [1]


async def test_what_cannot_start_is_one_object(serve: Serve, tmp_path: Path) -> None:
    serving = await serve("nomod:X", "--log-format", "json")
    assert await serving.exit_status() == 2
    [entry] = [json.loads(line) for line in serving.err]
    assert (entry["level"], entry["target"]) == ("ERROR", "dynamo.serve")
    assert entry["message"].startswith('Failed to import module "nomod"')


async def test_another_format_is_a_usage_error(serve: Serve, tmp_path: Path) -> None:
    serving = await serve("graph:Talker", "--log-format", "xml", COLUMNS="200", NO_COLOR="1")
    assert await serving.exit_status() == 2
    assert "'xml' is not one of 'text', 'json'" in serving.text
