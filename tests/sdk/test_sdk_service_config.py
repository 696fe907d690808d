"""How the code of a service reads its configuration."""

from __future__ import annotations

import json

import pytest

from dynamo.sdk.lib.config import ServiceConfig


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> ServiceConfig:
    sections = {
        "Common": {"model": "m", "block-size": 16, "unused": 1},
        "A": {
            "ServiceArgs": {"workers": 2},
            "common-configs": ["model", "block-size"],
            "block-size": 32,
            "enforce-eager": True,
            "quiet": False,
            "kv-transfer": {"role": "both"},
            "lib_x": 1,
        },
    }
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps(sections))
    return ServiceConfig.get_instance()


def test_the_instance_is_the_same_until_the_environment_changes(
    config: ServiceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ServiceConfig.get_instance() is config
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", '{"B": {}}')
    assert ServiceConfig.get_instance() == {"B": {}}


def test_values_are_read_like_those_of_a_dict(config: ServiceConfig) -> None:
    assert config.get("A", {}).get("lib_x", 5) == 1
    assert config.get("B", {}).get("lib_x", 5) == 5


def test_require_names_what_is_missing(config: ServiceConfig) -> None:
    assert config.require("A", "lib_x") == 1
    with pytest.raises(ValueError, match=r"A\.api_key must be specified in configuration"):
        config.require("A", "api_key")


def test_a_section_becomes_arguments_with_the_common_ones_first(config: ServiceConfig) -> None:
    arguments = ["--model", "m", "--block-size", "32", "--enforce-eager", "--kv-transfer", '{"role": "both"}']
    assert config.as_args("A") == [*arguments, "--lib_x", "1"]
    assert config.as_args("B") == []


def test_a_prefix_selects_and_is_dropped(config: ServiceConfig) -> None:
    assert config.as_args("A", prefix="lib_") == ["--x", "1"]


def test_a_value_that_is_null_is_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", '{"A": {"x": null, "y": [1, "a"], "z": ""}}')
    assert ServiceConfig.get_instance().as_args("A") == ["--y", '[1, "a"]', "--z", ""]


def test_flags_that_are_on_unless_said_are_switched_off_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"enable-prefix-caching": False, "multi_step_stream_outputs": False, "enforce-eager": False}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"A": section}))
    arguments = ["--no-enable-prefix-caching", "--no-multi-step-stream-outputs"]
    assert ServiceConfig.get_instance().as_args("A") == arguments


def test_get_and_require_give_what_stands_in_the_section_itself(config: ServiceConfig) -> None:
    assert "model" not in config.get("A", {})
    with pytest.raises(ValueError, match=r"A\.model must be specified"):
        config.require("A", "model")
