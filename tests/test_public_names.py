"""The public surface is what `public_names.txt` says: a change of it is a change of that file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
NAMES = Path(__file__).with_name("public_names.txt")


def public_modules() -> Iterator[str]:
    """Yield the modules without an underscore in their path; `__main__` is a command, not a module."""
    for path in sorted((SOURCE / "dynamo").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            yield ".".join(parts)


def test_the_public_names_are_those_on_the_list() -> None:
    found = []
    for module in public_modules():
        names = importlib.import_module(module).__all__
        found += [f"{module}.{name}" for name in names]
    assert found == NAMES.read_text().split()
