"""What the public modules cost to import: the libraries that few programs need are loaded when they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "aiohttp", "fastapi", "grpc", "huggingface_hub", "jinja2", "kubernetes", "nats", "numpy", "opentelemetry",
    "prometheus_client", "pydantic", "rich", "starlette", "tokenizers", "torch", "transformers", "typer", "uvicorn",
    "vllm", "yaml", "zmq",
)  # fmt: skip

#: The doors, each with what it is made of and so may load. People write their types with pydantic.
DOORS = {
    "dynamo": (),
    "dynamo._internal": (),
    "dynamo.echo": (),
    "dynamo.frontend": (),
    "dynamo.llm": (),
    "dynamo.metrics": (),
    "dynamo.mocker": (),
    "dynamo.runtime": (),
    "dynamo.sdk": ("pydantic",),
    "dynamo.sdk.lib.config": ("pydantic",),
    "dynamo.transformers": (),
    "dynamo.vllm": (),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_loads_nothing_that_few_need(door: str) -> None:
    script = f"import json, sys, {door}; print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert set(json.loads(done.stdout)) <= set(DOORS[door])
