"""How single values of `@service(...)` and `ServiceArgs` are read: names, quantities, counts, variables.

Each function takes what was written and returns what it means. `ValueError` says how to write it.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping

from dynamo._core.address import check_name
from dynamo._core.errors import InvalidArgument
from dynamo.sdk._sections import ENVIRONMENT_VARIABLE

WORKERS_MAX = 1024
#: A number of workers: as many as there are processors to run them.
CPU_COUNT = "cpu_count"

_CPU = re.compile(r"\d+(\.\d+)?|\d+m")
_MEMORY = re.compile(r"\d+([KMGTPE]i?)?")


def read_name(value: object) -> object:
    if isinstance(value, str):
        try:
            check_name("name", value)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
    return value


def read_cpu(value: object) -> object:
    return _quantity("CPU", value, _CPU, "a number of cores such as 2, or thousandths such as 300m")


def read_memory(value: object) -> object:
    return _quantity("Memory", value, _MEMORY, "a number of bytes with a unit, such as 20Gi")


def _quantity(kind: str, value: object, pattern: re.Pattern[str], help_text: str) -> object:
    if value is None or isinstance(value, bool):
        return value
    text = str(value)
    if not pattern.fullmatch(text):
        raise ValueError(f"Invalid {kind} format: {text}; write {help_text}")
    return text


def read_gpu(value: object) -> object:
    try:
        if isinstance(value, bool):
            raise ValueError
        return value if value is None else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        written = reprlib.repr(value)
        raise ValueError(f"Invalid GPU format: {written}; write a number such as 2, or a share such as 0.5") from None


def check_whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus} is not supported: a share of a GPU is below 1, and GPUs above 1 are whole")
    return gpus


def read_count(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"must be a whole number, not {value}")
    if value == CPU_COUNT:
        return min(_usable_processors(), WORKERS_MAX)
    return value


def _usable_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_variables(value: object) -> object:
    """Read environment variables, given as a mapping or as a list of {name, value}."""
    if isinstance(value, list):
        entries: dict[object, object] = {}
        for entry in value:
            if not isinstance(entry, Mapping) or set(entry) != {"name", "value"}:
                raise ValueError("each entry must be a mapping of name and value")
            if not isinstance(entry["name"], str) or entry["name"] in entries:
                raise ValueError(f"{entry['name']!r} is no name, or stands twice")
            entries[entry["name"]] = entry["value"]
        value = entries
    if isinstance(value, Mapping):
        return {_variable_name(name): _variable(entry) for name, entry in value.items()}
    return value


def _variable_name(name: object) -> object:
    if name == "" or (isinstance(name, str) and ("=" in name or "\0" in name)):
        raise ValueError(f"{name!r} cannot be the name of an environment variable")
    if name == ENVIRONMENT_VARIABLE:
        raise ValueError(f"{ENVIRONMENT_VARIABLE} carries the configuration; write what it should say there")
    return name


def _variable(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and "\0" in value:
        raise ValueError("an environment variable cannot hold a zero byte")
    return str(value) if isinstance(value, int | float) else value
