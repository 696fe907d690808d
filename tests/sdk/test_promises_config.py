"""The documented ways to configure a service: decorator, YAML, command line, and how its own code reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.sdk.project import GPUS, Project

from dynamo.sdk import service, service_of

Configure = Callable[[dict[str, dict[str, object]]], None]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    async with Project(tmp_path) as project:
        yield project


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """What `dynamo serve` does to the environment of a worker."""
    return lambda config: monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps(config))


MY_SERVICE = """
import os
from dynamo.sdk import dynamo_endpoint, service

@service(
    dynamo={"enabled": True, "namespace": "prod"},
    resources={"gpu": 2, "cpu": "4", "memory": "16Gi"},
    workers=2,
)
class MyService:
    def __init__(self, model_name="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", temperature=0.7):
        self.model_name = model_name
        self.temperature = temperature

    @dynamo_endpoint()
    async def show(self, request):
        return [self.model_name, self.temperature, os.environ["CUDA_VISIBLE_DEVICES"]]
"""

CONFIG = """
# config.yaml
MyService:
  # Override service decorator settings
  ServiceArgs:
    workers: 4
    resources:
      gpu: 4

  # Service instance parameters
  model_name: "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
  temperature: 0.8
"""


async def test_the_decorator_and_the_constructor_are_the_configuration_where_nothing_else_is(project: Project) -> None:
    project.write(service=MY_SERVICE)
    serving = await project.serve("service:MyService", **GPUS)
    await serving.line(r"^ready in .*: MyService x2$")
    workers = await project.call_each("prod.MyService.show", None)
    model = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert sorted(workers, key=str) == [[model, 0.7, "0,1"], [model, 0.7, "2,3"]]


async def test_a_yaml_file_overrides_the_decorator_and_the_constructor(project: Project) -> None:
    project.write(service=MY_SERVICE, config_yaml=CONFIG)
    serving = await project.serve("service:MyService", "-f", "config.yaml", **GPUS)
    await serving.line(r"^ready in .*: MyService x4$")
    workers = await project.call_each("prod.MyService.show", None)
    model = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    gpus = ["0,1,2,3", "12,13,14,15", "4,5,6,7", "8,9,10,11"]
    assert sorted(workers, key=str) == [[model, 0.8, devices] for devices in gpus]


async def test_a_service_without_endpoints_runs_with_its_configuration_too(project: Project) -> None:
    without, _, _ = MY_SERVICE.partition("    @dynamo_endpoint()")
    project.write(service=without + "        print(f'serving {model_name} at {temperature}', flush=True)\n")
    serving = await project.serve("service:MyService", "--MyService.temperature=0.9", **GPUS)
    await serving.line(r"^ready in .*: MyService x2$")
    await serving.line("serving deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B at 0.9")


PRECEDENCE = """
from dynamo.sdk import dynamo_endpoint, service

@service(workers=2)
class Ranked:
    def __init__(self, by_line="constructor", by_file="constructor", by_constructor="constructor"):
        self.values = [by_line, by_file, by_constructor]

    @dynamo_endpoint()
    async def show(self, request):
        return self.values
"""


async def test_the_command_line_wins_over_the_file_that_over_the_decorator_and_the_constructor(
    project: Project,
) -> None:
    project.write(ranked=PRECEDENCE, ranked_yaml="Ranked:\n  by_line: file\n  by_file: file\n")
    serving = await project.serve("ranked:Ranked", "-f", "ranked.yaml", "--Ranked.by_line=line")
    await serving.line(r"^ready in .*: Ranked x2$")
    assert await project.call_each("default.Ranked.show", None) == [["line", "file", "constructor"]] * 2


READING = """
from dynamo.sdk import dynamo_endpoint, service
from dynamo.sdk.lib.config import ServiceConfig

@service
class MyService:
    def __init__(self):
        config = ServiceConfig.get_instance()

        # Get with default value
        self.model_name = config.get("MyService", {}).get("model_name", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
        self.temperature = config.get("MyService", {}).get("temperature", 0.7)

        # Require a config value (raises error if missing)
        self.api_key = config.require("MyService", "api_key")

        # Get all config for this service
        all_my_config = config.get("MyService", {})
        self.all_my_config = all_my_config

    @dynamo_endpoint()
    async def show(self, request):
        return [self.model_name, self.temperature, self.api_key, self.all_my_config]
"""


async def test_the_code_of_a_service_reads_its_configuration(project: Project) -> None:
    project.write(service=READING, config_yaml="MyService:\n  temperature: 0.1\n  api_key: from the file\n")
    await project.serve("service:MyService", "-f", "config.yaml")
    section = {"temperature": 0.1, "api_key": "from the file"}
    model = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert await project.call("default.MyService.show", None) == [[model, 0.1, "from the file", section]]


async def test_a_required_value_that_is_missing_ends_the_start_with_its_name(project: Project) -> None:
    project.write(service=READING)
    serving = await project.start("service:MyService")
    assert await serving.exit_status() == 1
    assert "MyService.api_key must be specified in configuration" in serving.text
    assert "ready in" not in serving.text


ENVIRONMENT = """
import json
import os
from typing import Optional
from dynamo.sdk import dynamo_endpoint, service

@service
class MyService:
    def _get_service_args(self, service_name: str) -> Optional[dict]:
        \"\"\"Get ServiceArgs from environment config if specified\"\"\"
        config_str = os.environ.get("DYNAMO_SERVICE_CONFIG")
        if config_str:
            config = json.loads(config_str)
            service_config = config.get(service_name, {})
            return service_config.get("ServiceArgs")
        return None

    @dynamo_endpoint()
    async def show(self, request: str):
        return self._get_service_args(request)
"""


async def test_workers_find_the_merged_configuration_in_their_environment(project: Project) -> None:
    project.write(service=ENVIRONMENT, config_yaml=CONFIG)
    await project.serve("service:MyService", "-f", "config.yaml", "--MyService.ServiceArgs.workers=1", **GPUS)
    service_args = {"workers": 1, "resources": {"gpu": 4}}
    assert await project.call("default.MyService.show", "MyService") == [service_args]
    assert await project.call("default.MyService.show", "Other") == [None]


def test_service_args_override_any_argument_of_the_decorator(configure: Configure) -> None:
    service_args = {"dynamo": {"namespace": "staging"}, "resources": {"gpu": 4}, "workers": 8}
    configure({"MyService": {"ServiceArgs": service_args}})

    @service(
        dynamo={"enabled": True, "namespace": "prod"},
        resources={"gpu": 2, "cpu": "4", "memory": "16Gi"},
        workers=2,
    )
    class MyService: ...

    options = service_of(MyService).options
    assert service_of(MyService).dynamo_address() == ("staging", "MyService")
    assert options.dynamo.enabled
    assert (options.workers, options.resources.gpu) == (8, 4)
    assert (options.resources.cpu, options.resources.memory) == ("4", "16Gi")
