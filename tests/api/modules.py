"""The modules of the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
#: Those that import what is not installed where tests run.
_ELSEWHERE = {"dynamo.vllm._vllm"}


def all_files() -> list[Path]:
    return sorted((SOURCE / "dynamo").rglob("*.py"))


def all_modules() -> Iterator[str]:
    """Yield every module that can be imported here."""
    for path in all_files():
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name not in _ELSEWHERE:
            yield name
