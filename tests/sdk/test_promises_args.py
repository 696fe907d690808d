"""The documented ways to hand a configuration to an external library: as the arguments of its own parser."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, fields

import pytest

from dynamo.sdk.lib.config import ServiceConfig

Configure = Callable[[dict[str, dict[str, object]]], None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """What `dynamo serve` does to the environment of a worker."""
    return lambda config: monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps(config))


def setup_my_lib() -> list[str]:
    config = ServiceConfig.get_instance()

    # Get all MyService config with prefix "lib_" as CLI args
    return config.as_args("MyService", prefix="lib_")


def test_a_prefix_of_the_configuration_becomes_arguments_of_an_external_parser(configure: Configure) -> None:
    configure(
        {
            "MyService": {
                "lib_option1": "value1",
                "lib_flag2": True,
                "lib_option3": "value3",
                "lib_flag4": False,
                "model_name": "of no interest to the library",
                "ServiceArgs": {"workers": 2},
            }
        }
    )
    cli_args = setup_my_lib()
    assert cli_args == ["--option1", "value1", "--flag2", "--option3", "value3"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--option1")
    parser.add_argument("--flag2", action="store_true")
    parser.add_argument("--option3")
    assert vars(parser.parse_args(cli_args)) == {"option1": "value1", "flag2": True, "option3": "value3"}


@dataclass
class AsyncEngineArgs:
    """The arguments of an engine, which come to and from a parser as those of vLLM do."""

    model: str = "facebook/opt-125m"
    max_model_len: int | None = None
    enforce_eager: bool = False
    gpu_memory_utilization: float = 0.9
    router: str = ""
    remote_prefill: bool = False

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("--model", default="facebook/opt-125m")
        parser.add_argument("--max-model-len", type=int)
        parser.add_argument("--enforce-eager", action="store_true")
        parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> AsyncEngineArgs:
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in vars(args).items() if name in names})


def parse_vllm_args(service_name: str, prefix: str) -> AsyncEngineArgs:
    config = ServiceConfig.get_instance()
    vllm_args = config.as_args(service_name, prefix=prefix)
    parser = argparse.ArgumentParser(exit_on_error=False)

    # Add custom arguments
    parser.add_argument("--router", type=str, choices=["random", "round-robin", "kv"], default="random")
    parser.add_argument("--remote-prefill", action="store_true")

    # Add VLLM's arguments
    parser = AsyncEngineArgs.add_cli_args(parser)

    # Parse both custom and VLLM arguments
    args = parser.parse_args(vllm_args)

    # Convert to engine arguments
    engine_args = AsyncEngineArgs.from_cli_args(args)

    # Add custom args to the engine args
    engine_args.router = args.router
    engine_args.remote_prefill = args.remote_prefill

    return engine_args


def test_the_arguments_of_an_engine_come_from_the_configuration_through_its_own_parser(configure: Configure) -> None:
    configure(
        {
            "Common": {"model": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "max-model-len": 16384},
            "VllmWorker": {
                "enforce-eager": True,
                "gpu-memory-utilization": 0.5,
                "router": "kv",
                "remote-prefill": True,
                "ServiceArgs": {"workers": 2, "resources": {"gpu": 1}},
                "common-configs": ["model", "max-model-len"],
            },
        }
    )
    assert parse_vllm_args("VllmWorker", "") == AsyncEngineArgs(
        model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        max_model_len=16384,
        enforce_eager=True,
        gpu_memory_utilization=0.5,
        router="kv",
        remote_prefill=True,
    )


def test_an_engine_without_configuration_has_the_defaults_of_its_parser(configure: Configure) -> None:
    configure({})
    assert parse_vllm_args("VllmWorker", "") == AsyncEngineArgs(router="random")


def test_an_argument_that_the_engine_does_not_know_is_refused_by_its_parser(configure: Configure) -> None:
    configure({"VllmWorker": {"router": "fastest"}})
    with pytest.raises(argparse.ArgumentError, match="invalid choice: 'fastest'"):
        parse_vllm_args("VllmWorker", "")
