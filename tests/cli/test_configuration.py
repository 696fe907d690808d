"""Configuration through the real command: what a dry run shows, what a service reads, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.cli.serving import Serving

Serve = Callable[..., Awaitable[Serving]]

#: The complete example of the SDK's documentation; only the last line of the constructor is ours.
SERVICE = """
import json, os
from dynamo.sdk import dynamo_context, dynamo_endpoint, service
from dynamo.sdk.lib.config import ServiceConfig

@service(
    dynamo={"enabled": True, "namespace": "default"},
    resources={"gpu": 1},
    workers=1,
)
class LLMService:
    def __init__(self, model_name="gpt-2", temperature=0.7, max_tokens=1024):
        self.model_name = model_name
        self.temperature = temperature
        self.max_tokens = max_tokens

        # Get additional configuration
        config = ServiceConfig.get_instance()
        service_config = config.get("LLMService", {})

        # Extract service-specific parameters
        self.cache_size = service_config.get("cache_size", 1000)
        self.use_kv_cache = service_config.get("use_kv_cache", True)

        print("values", json.dumps({
            **vars(self), "address": LLMService.dynamo_address(), "worker": dynamo_context["worker_id"],
            "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }))

    @dynamo_endpoint()
    async def generate(self, request):
        yield request
"""
CONFIG = """\
# prod_config.yaml
LLMService:
  ServiceArgs:
    dynamo:
      namespace: "prod"
    resources:
      gpu: 4
      memory: "64Gi"
    workers: 8

  # Constructor parameters
  model_name: "llama-3-70b-instruct"
  temperature: 0.8
  max_tokens: 2048

  # Service-specific parameters
  cache_size: 10000
  use_kv_cache: true
"""
COMMAND = ["service:LLMService", "-f", "prod_config.yaml", "--LLMService.temperature=0.9"]
DEVICES = ",".join(str(device) for device in range(32))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "prod_config.yaml").write_text(CONFIG)
    return tmp_path


async def test_a_dry_run_of_the_complete_example_shows_each_value_with_its_source(serve: Serve, project: Path) -> None:
    serving = await serve(*COMMAND, "--dry-run", CUDA_VISIBLE_DEVICES=DEVICES)
    assert await serving.exit_status() == 0
    assert serving.err == []
    devices = " | ".join(",".join(str(4 * worker + device) for device in range(4)) for worker in range(8))
    assert serving.out[: serving.out.index("Service Configuration:")] == [
        "Services:",
        f"  LLMService: 8 workers, GPUs {devices}",
        "",
        "LLMService:",
        "  dynamo.enabled = true   (@service)",
        '  dynamo.namespace = "prod"   (prod_config.yaml:5)',
        '  resources.memory = "64Gi"   (prod_config.yaml:8)',
        "  resources.gpu = 4   (prod_config.yaml:7)",
        "  workers = 8   (prod_config.yaml:9)",
        '  model_name = "llama-3-70b-instruct"   (prod_config.yaml:12)',
        "  temperature = 0.9   (--LLMService.temperature)",
        "  max_tokens = 2048   (prod_config.yaml:14)",
        "  cache_size = 10000   (prod_config.yaml:17)",
        "  use_kv_cache = true   (prod_config.yaml:18)",
        "",
    ]
    [line] = [line for line in serving.out if line.startswith("DYNAMO_SERVICE_CONFIG=")]
    assert json.loads(line.partition("=")[2])["LLMService"]["temperature"] == 0.9


async def test_the_complete_example_runs_with_its_effective_values(serve: Serve, project: Path) -> None:
    serving = await serve(*COMMAND, CUDA_VISIBLE_DEVICES=DEVICES)
    await serving.ready()
    found = [re.search(r"^\[LLMService:(\d)\] values (.*)", line) for line in serving.out]
    values = {int(match[1]): json.loads(match[2]) for match in found if match}
    assert len(values) == 8
    for number, value in values.items():
        first = 4 * (number - 1)
        assert value == {
            "address": ["prod", "LLMService"],
            "devices": ",".join(str(device) for device in range(first, first + 4)),
            "worker": number,
            "model_name": "llama-3-70b-instruct",
            "temperature": 0.9,
            "max_tokens": 2048,
            "cache_size": 10000,
            "use_kv_cache": True,
        }


async def test_too_few_gpus_are_one_line_and_nothing_starts(serve: Serve, project: Path) -> None:
    serving = await serve(*COMMAND, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert await serving.exit_status() == 1
    assert serving.out == []
    assert serving.err == [
        "error: LLMService wants 4 GPUs for each of its 8 workers, but of the 4 that CUDA_VISIBLE_DEVICES=0,1,2,3 "
        "has, 0 are left for worker 2: run fewer workers, lower resources.gpu, or set "
        "DYN_DISABLE_AUTO_GPU_ALLOCATION=1 to leave the GPUs to the services"
    ]


async def test_a_service_runs_without_gpus_where_allocation_is_off(serve: Serve, project: Path) -> None:
    serving = await serve("service:LLMService", DYN_DISABLE_AUTO_GPU_ALLOCATION="1", CUDA_VISIBLE_DEVICES="")
    await serving.ready()
    assert '"devices": ""' in (await serving.line("values (.*)"))[1]


NEEDY = """
from dynamo.sdk import dynamo_endpoint, service

@service
class Needy:
    def __init__(self, model_name: str, size: int = 1, api_key: str = ""):
        print("values", model_name, size)

    @dynamo_endpoint
    async def generate(self, request):
        yield request
"""


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (None, [], "Needy cannot be built without 'model_name': set it with --Needy.model_name=VALUE"),
        ("Needy:\n  model_name: [\n", [], "config.yaml:3: this is not YAML"),
        ("Needy: 5\n", [], "config.yaml:1: the section Needy must be a mapping, not 5"),
        (
            "Needy:\n  model_name: m\nNedy:\n  x: 1\n",
            [],
            "config.yaml:3: Nedy: unknown service 'Nedy'; did you mean 'Needy'?",
        ),
        (
            "Needy:\n  model_name: m\n  ServiceArgs:\n    workers: 1\n    worker: 1\n",
            [],
            "config.yaml:5: Needy.ServiceArgs.worker: unknown key 'worker'; did you mean 'workers'?",
        ),
        ("Needy:\n  model_name: m\n  size: big\n", [], "config.yaml:3: Needy.size: must be a whole number, not 'big'"),
        ("Needy:\n  off: 1\n", [], "config.yaml:2: the key 'off' is read as bool; write it in quotes"),
        (None, ["--Needy.model_name=m", "--Needy.size=1.5"], "--Needy.size: must be a whole number, not 1.5"),
        (
            None,
            ["--Needy.model_name=m", "--Needy.ServiceArgs.workers=-1"],
            "--Needy.ServiceArgs.workers: must be at least 1, not -1",
        ),
    ],
)
async def test_a_mistake_is_one_line_with_its_place_and_nothing_starts(
    serve: Serve, tmp_path: Path, config: str | None, arguments: list[str], message: str
) -> None:
    (tmp_path / "needy.py").write_text(NEEDY)
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
        arguments = ["-f", "config.yaml", *arguments]
    serving = await serve("needy:Needy", *arguments)
    assert await serving.exit_status() == 2
    assert serving.out == []
    [line] = serving.err
    assert line.startswith(f"error: {message}")


async def test_a_negative_number_is_a_value_in_both_spellings(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(NEEDY)
    serving, other = await asyncio.gather(
        serve("needy:Needy", "--Needy.model_name=m", "--Needy.size=-5"),
        serve("needy:Needy", "--Needy.model_name=m", "--Needy.size", "-7"),
    )
    await serving.line(r"values m -5")
    await other.line(r"values m -7")


async def test_common_values_reach_the_constructor_under_the_names_of_its_parameters(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "needy.py").write_text(NEEDY)
    common = 'Common:\n  model-name: shared\n  size: 3.0\nNeedy:\n  common-configs: ["model-name", "size"]\n'
    (tmp_path / "config.yaml").write_text(common)
    serving = await serve("needy:Needy", "-f", "config.yaml")
    await serving.line(r"values shared 3$")


async def test_the_configuration_of_a_deployment_is_served_with_a_warning(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(NEEDY)
    config = '{"Needy": {"model_name": "deployed", "api_key": "sk-123"}}'
    serving = await serve("needy:Needy", "--Needy.model_name=m", "--dry-run", DYN_DEPLOYMENT_CONFIG=config)
    assert await serving.exit_status() == 0
    assert serving.err == [
        "warning: the configuration is taken from DYN_DEPLOYMENT_CONFIG alone, and not from --Needy.model_name"
    ]
    assert '  model_name = "deployed"   (DYN_DEPLOYMENT_CONFIG)' in serving.out
    assert "sk-123" not in serving.text
