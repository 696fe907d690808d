"""Logging: levels, lines and JSON, as a process of its own writes them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from dynamo._core.errors import ConfigError
from dynamo.runtime._logging import set_up_logging

TIMEOUT_S = 30
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
