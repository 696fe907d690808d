"""Imports only go down: the layers of ARCHITECTURE.md, read from the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "dynamo"

#: Each package's layer. Within a layer, packages do not import each other.
LAYERS = {
    "_core": 0,
    "metrics": 1,
    "runtime": 2,
    "llm": 3,
    "sdk": 3,
    "_internal": 3.5,
    "_engines": 3.5,
    "echo": 4,
    "frontend": 4,
    "mocker": 4,
    "router": 4,
    "transformers": 4,
    "vllm": 4,
    # Who asks and who answers, in one process: of the components it needs the frontend and the engines.
    "entrypoint": 4.6,
    # A cluster in one process: of the components it needs the simulated engine, and none needs it.
    "replay": 4.5,
    "cli": 5,
}


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each import of our own: the line, and the package under `dynamo` that it names."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = node.module or ""
            names = [f"dynamo.{alias.name}" for alias in node.names] if module == "dynamo" else [module]
        for name in names:
            assert isinstance(node, ast.Import | ast.ImportFrom)
            if name.startswith("dynamo."):
                yield node.lineno, name.split(".")[1]


def test_every_package_has_a_layer() -> None:
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages == set(LAYERS)


def test_imports_only_go_down() -> None:
    broken = []
    for path in sorted(SOURCE.rglob("*.py")):
        package = path.relative_to(SOURCE).parts[0]
        for line, imported in imports_of(path):
            if imported != package and LAYERS[imported] >= LAYERS[package]:
                broken.append(f"{path.relative_to(SOURCE)}:{line}: {package} must not import {imported}")
    assert broken == []
