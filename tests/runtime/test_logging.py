"""Logging: levels, lines and JSON, as a process of its own writes them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from dynamo._core.errors import ConfigError
from dynamo.runtime._logging import set_up_logging

TIMEOUT_S = 90
UTC_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

SET_UP = """
import logging, sys
from dynamo.runtime._logging import set_up_logging
set_up_logging(dict(pair.split("=", 1) for pair in sys.argv[1:]))
"""
EVERY_LEVEL = """
for target in ("app", "dynamo.llm", "dynamo.llm._models", "uvicorn.error"):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(target), level)("it is %s", level)
"""


def logged(program: str, *settings: str) -> list[str]:
    """Return the lines that the program has logged with these variables."""
    command = [sys.executable, "-c", SET_UP + program, *settings]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout == ""
    return done.stderr.splitlines()


def count_of(target: str, lines: list[str]) -> int:
    return sum(f" {target}: " in line for line in lines)


def test_a_line_has_the_time_in_utc_the_level_and_the_target() -> None:
    (line,) = logged("logging.getLogger('app').warning('it is %s', 'ü')")
    assert re.fullmatch(UTC_TIME + " WARNING app: it is ü", line)


def test_without_a_level_it_is_info_and_uvicorn_tells_errors_only() -> None:
    lines = logged(EVERY_LEVEL)
    assert [count_of(name, lines) for name in ("app", "dynamo.llm", "dynamo.llm._models")] == [3, 3, 3]
    assert count_of("uvicorn.error", lines) == 1


@pytest.mark.parametrize(
    ("level", "counts"),
    [
        ("DYN_LOG=error", [1, 1, 1, 1]),
        ("DYN_LOG=Warn", [2, 2, 2, 1]),
        ("DYN_LOG=debug", [4, 4, 4, 1]),
        ("DYN_LOG=info,dynamo.llm=debug", [3, 4, 4, 1]),
        ("DYN_LOG= error , dynamo.llm = info, dynamo.llm._models=debug", [1, 3, 4, 1]),
        ("DYN_LOG=dynamo.llm=error", [3, 1, 1, 1]),
        ("DYN_LOG=uvicorn=info", [3, 3, 3, 3]),
    ],
)
def test_levels_are_for_all_targets_or_for_some(level: str, counts: list[int]) -> None:
    lines = logged(EVERY_LEVEL, level)
    assert [count_of(name, lines) for name in ("app", "dynamo.llm", "dynamo.llm._models", "uvicorn.error")] == counts


def test_jsonl_is_one_object_per_line_whatever_the_message_is() -> None:
    program = "\nlogging.getLogger('app').info('two\\nlines, \\x1b and %s', '\\udc80ü')"
    (line,) = logged(program, "DYN_LOGGING_JSONL=1")
    entry = json.loads(line)
    assert re.fullmatch(UTC_TIME, entry.pop("time"))
    assert entry == {
        "level": "INFO",
        "target": "app",
        "message": "two\nlines, \x1b and \udc80ü",
        "file": "<string>",
        "line": 6,
    }


def test_jsonl_keeps_a_traceback_in_its_line() -> None:
    program = """
try:
    {}["key"]
except KeyError:
    logging.getLogger("app").exception("it failed")
"""
    (line,) = logged(program, "DYN_LOGGING_JSONL=true")
    entry = json.loads(line)
    assert entry["message"] == "it failed"
    assert entry["exception"].endswith("KeyError: 'key'")


def test_the_time_can_be_that_of_this_place() -> None:
    program = """
import os, time
os.environ["TZ"] = "JST-9"
time.tzset()
logging.getLogger("app").info("hello")
"""
    (line,) = logged(program, "DYN_LOG_USE_LOCAL_TZ=1")
    assert re.fullmatch(r"\S+T\S+\+09:00 INFO app: hello", line)


def test_a_variable_that_has_no_effect_says_so() -> None:
    (line,) = logged("", "DYN_LOGGING_CONFIG_PATH=/some/file.toml")
    assert line.endswith("DYN_LOGGING_CONFIG_PATH has no effect; DYN_LOG has levels, also for single targets")


def test_a_script_logs_as_the_variables_say_once_however_often_it_asks() -> None:
    program = """
from dynamo.runtime.logging import configure_dynamo_logging
configure_dynamo_logging(service_name="Frontend", worker_id=1)
logging.getLogger("app").info("hello")
"""
    (line,) = logged(program)
    assert line.endswith("INFO app: hello")


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_jsonl_can_be_off(value: str) -> None:
    (line,) = logged("logging.getLogger('app').info('hello')", f"DYN_LOGGING_JSONL={value}")
    assert line.endswith("INFO app: hello")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DYN_LOG": "loud"}, "DYN_LOG='loud': 'loud' is no level; use debug, info, warning or error"),
        ({"DYN_LOG": "info,"}, "DYN_LOG='info,': '' is no level"),
        ({"DYN_LOG": "info,app=loud"}, "'app=loud' is no level"),
        ({"DYN_LOG": "=info"}, "'=info' is no level"),
        ({"DYN_LOG": "info,error"}, "has two levels for all targets"),
        ({"DYN_LOG": "a=info,a=error"}, "has two levels for the target 'a'"),
        ({"DYN_LOGGING_JSONL": "json"}, "DYN_LOGGING_JSONL='json' is not true or false: use 1 or 0"),
    ],
)
def test_a_wrong_value_names_its_variable(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        set_up_logging(variables)
    assert words in raised.value.message


# The request that is being handled.

IN_A_REQUEST = """
from dynamo._core.context import Context, handling
context = Context("mine", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
with handling(context):
    logging.getLogger("app").info("hello")
logging.getLogger("app").info("bye")
"""


def test_a_line_within_a_request_has_its_ids_and_one_outside_has_none() -> None:
    inside, outside = logged(IN_A_REQUEST)
    ids = r"\[x_request_id=mine trace_id=0af7651916cd43dd8448eb211c80319c span_id=[0-9a-f]{16}\]"
    assert re.fullmatch(rf"{UTC_TIME} INFO app: hello {ids}", inside)
    assert outside.endswith("INFO app: bye")


def test_jsonl_has_the_ids_as_fields() -> None:
    inside, outside = map(json.loads, logged(IN_A_REQUEST, "DYN_LOGGING_JSONL=1"))
    assert (inside["x_request_id"], inside["trace_id"]) == ("mine", "0af7651916cd43dd8448eb211c80319c")
    assert inside["span_id"] != "b7ad6b7169203331"
    assert set(inside) - set(outside) == {"x_request_id", "trace_id", "span_id"}
    assert set(outside) == {"time", "level", "target", "message", "file", "line"}


def test_an_id_that_two_things_share_is_written_once() -> None:
    program = """
from dynamo._core.context import Context, handling
with handling(Context()):
    logging.getLogger("app").info("hello")
"""
    (line,) = logged(program)
    assert re.search(r"hello \[x_request_id=[0-9a-f]{32} span_id=[0-9a-f]{16}\]$", line)


def test_the_id_of_a_request_cannot_make_lines() -> None:
    program = """
from dynamo._core.context import Context, handling
with handling(Context("a\\nb \\x1b")):
    logging.getLogger("app").info("hello")
"""
    (line,) = logged(program)
    assert "[x_request_id='a\\nb \\x1b' trace_id=" in line


def test_what_a_request_has_started_says_nothing_in_its_name_once_it_is_over() -> None:
    program = """
import asyncio
from dynamo._core.context import Context, handling
async def main():
    over = asyncio.Event()
    async def beside():
        logging.getLogger("app").info("during")
        await over.wait()
        logging.getLogger("app").info("after")
    with handling(Context("mine")):
        task = asyncio.create_task(beside())
        await asyncio.sleep(0)
    over.set()
    await task
asyncio.run(main())
"""
    during, after = logged(program)
    assert "[x_request_id=mine" in during
    assert after.endswith("INFO app: after")


# Repeats.


def test_what_is_said_of_many_lines_has_the_ids_of_no_request() -> None:
    program = """
from dynamo._core.context import Context, handling
for number in range(250):
    with handling(Context(f"request-{number}")):
        logging.getLogger("dynamo.test").warning("failed: %d", number)
with handling(Context("innocent")):
    logging.shutdown()
"""
    *lines, begins, told = logged(program)
    assert "[x_request_id=request-99 " in lines[-1]
    assert begins.endswith("more lines like 'failed: %d' are counted for now")
    assert told.endswith("150 lines like 'failed: %d' were left out")


def test_lines_of_ours_that_repeat_are_counted_and_told_of_at_the_end() -> None:
    program = """
for number in range(250):
    logging.getLogger("dynamo.test").warning("failed: %d", number)
    logging.getLogger("app").info("mine: %d", number)
"""
    lines = [line.partition(" ")[2] for line in logged(program)]
    ours = [line for line in lines if "dynamo.test" in line]
    assert ours[:100] == [f"WARNING dynamo.test: failed: {number}" for number in range(100)]
    assert ours[100:] == [
        "WARNING dynamo.test: more lines like 'failed: %d' are counted for now",
        "WARNING dynamo.test: 150 lines like 'failed: %d' were left out",
    ]
    assert len(lines) == 250 + len(ours)


def test_a_message_of_somebody_else_is_logged_with_its_origin() -> None:
    program = """
from dynamo.runtime.logging import log_message
log_message("WARN", "100 % full", "engine.cache", "/src/cache.rs", 42)
log_message("trace", "not at this level", "engine.cache", "/src/cache.rs", 43)
"""
    (line,) = logged(program)
    assert re.fullmatch(UTC_TIME + " WARNING engine.cache: 100 % full", line)
    (entry,) = map(json.loads, logged(program, "DYN_LOGGING_JSONL=1"))
    assert (entry["target"], entry["file"], entry["line"]) == ("engine.cache", "/src/cache.rs", 42)
    assert len(logged(program, "DYN_LOG=engine=debug")) == 2


def test_log_message_is_where_others_import_it_from() -> None:
    import dynamo._core
    from dynamo.runtime.logging import log_message

    assert dynamo._core.log_message is log_message
