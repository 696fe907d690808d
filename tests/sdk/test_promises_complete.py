"""The documented complete example of a configuration, and the values that its service runs with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.sdk.project import GPUS, Project


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    async with Project(tmp_path) as project:
        yield project


LLM_SERVICE = """
import os
from dynamo.sdk import dynamo_endpoint, service, service_of
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

    @dynamo_endpoint()
    async def effective(self, request):
        options = service_of(LLMService).options
        return {
            "dynamo.namespace": options.dynamo.namespace,
            "resources.gpu": options.resources.gpu,
            "resources.memory": options.resources.memory,
            "workers": options.workers,
            **vars(self),
            "devices": os.environ["CUDA_VISIBLE_DEVICES"].split(","),
        }
"""

PROD_CONFIG = """
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


async def test_the_complete_example_runs_with_exactly_the_documented_values(project: Project) -> None:
    project.write(service=LLM_SERVICE, prod_config_yaml=PROD_CONFIG)
    serving = await project.serve(
        "service:LLMService", "-f", "prod_config.yaml", "--LLMService.temperature=0.9", **GPUS
    )
    await serving.line(r"^ready in .*: LLMService x8$")
    workers = await project.call_each("prod.LLMService.effective", None)
    devices: list[str] = []
    for worker in workers:
        assert isinstance(worker, dict)
        own = worker.pop("devices")
        assert len(own) == 4
        devices += own
        assert worker == {
            "dynamo.namespace": "prod",
            "resources.gpu": 4,
            "resources.memory": "64Gi",
            "workers": 8,
            "model_name": "llama-3-70b-instruct",
            "temperature": 0.9,
            "max_tokens": 2048,
            "cache_size": 10000,
            "use_kv_cache": True,
        }
    assert sorted(devices, key=int) == [str(index) for index in range(32)]


async def test_the_complete_example_without_configuration_runs_with_its_defaults(project: Project) -> None:
    project.write(service=LLM_SERVICE)
    await project.serve("service:LLMService", **GPUS)
    [worker] = await project.call_each("default.LLMService.effective", None)
    assert worker == {
        "dynamo.namespace": "default",
        "resources.gpu": 1,
        "resources.memory": None,
        "workers": 1,
        "model_name": "gpt-2",
        "temperature": 0.7,
        "max_tokens": 1024,
        "cache_size": 1000,
        "use_kv_cache": True,
        "devices": ["0"],
    }
