"""Configuration: the file, the command line, how they merge, and how a service reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.runtime import DynamoError
from dynamo.sdk._config import merged_config, parse_override, parse_value
from dynamo.sdk._constructor import check_arguments, constructor_arguments, misspelt, parameter_names
from dynamo.sdk._sections import Json, Section, deep_merge
from dynamo.sdk.lib.config import ServiceConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ('[1,"a"]', [1, "a"]),
        ('{"a":1}', {"a": 1}),
        ('"5"', "5"),
        ("-5", -5),
        ("1e3", 1000.0),
        ("0123", 123),
        (".5", 0.5),
        ("meta-llama/Llama", "meta-llama/Llama"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_a_value_of_the_command_line_is_json_or_a_number_or_text(text: str, value: Json) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_dots_nest() -> None:
    assert parse_override("A.ServiceArgs.resources.gpu=2") == {"A": {"ServiceArgs": {"resources": {"gpu": 2}}}}


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "A:\n  x: file\n  y: file\n  z: file\n  ServiceArgs:\n    workers: 4\n    resources:\n      gpu: 1\n"
    )
    environment = {"DYNAMO_SERVICE_CONFIG": json.dumps({"A": {"y": "environment", "z": "environment"}})}
    config = merged_config(str(file), environment, ["A.z=line", "A.ServiceArgs.workers=1"])
    assert config["A"] == {
        "x": "file",
        "y": "environment",
        "z": "line",
        "ServiceArgs": {"workers": 1, "resources": {"gpu": 1}},
    }


def test_a_later_override_wins() -> None:
    assert merged_config(None, {}, ["A.x=1", "A.x=2"])["A"] == {"x": 2}


BOMB = "".join(f"  x{n + 1}: &x{n + 1} [{', '.join([f'*x{n}'] * 10)}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: 5\n", "config.yaml:1: the section A must be a mapping, not 5"),
        ("- a\n", "config.yaml: the file must map service names to sections"),
        ("A:\n  x: [1\n", "config.yaml:3: this is not YAML"),
        ("A:\n  off: 1\n", "config.yaml:2: the key 'off' is read as bool; write it in quotes"),
        ("A:\n  x: 1\n  x: 2\n", "config.yaml:3: the key 'x' stands here a second time"),
        ("A:\n  x: 1\n  ServiceArgs:\n    worker: 2\n", "config.yaml:3: A.ServiceArgs: unknown key 'worker'"),
        ("A:\n  ServiceArgs:\n    workers: many\n", "config.yaml:2: A.ServiceArgs: workers: Input should be"),
        ("A:\n  ServiceArgs: 5\n", "config.yaml:2: A.ServiceArgs must be a mapping"),
        ("A:\n  common-configs: x\n", "config.yaml: A.common-configs must be a list of keys of Common"),
        ("A:\n  x:\n    - off: 1\n", "config.yaml:3: the key 'off' is read as bool; write it in quotes"),
        ("A:\n  ? [a]\n  : 1\n", "config.yaml:2: the key here is read as seq; write it in quotes"),
        ("A:\n  x: 2020-01-01\n", "config.yaml:2: this is read as a timestamp; write it in quotes"),
        ("A:\n  x: !!binary aGk=\n", "config.yaml:2: this is read as a binary; write it in quotes"),
        ("A:\n  x: !!python/name:os.system\n", "config.yaml:2: this is read as a python/name:os.system"),
        ("A:\n  x: \0\n", "config.yaml: this is not YAML: unacceptable character"),
        (f"A:\n  x: {'9' * 5000}\n", "config.yaml: this is not YAML: Exceeds the limit"),
        (f"A:\n  x: {'[' * 80}{']' * 80}\n", "config.yaml:2: nested deeper than 64 levels"),
        (f"A:\n  x: {'[' * 3000}{']' * 3000}\n", "config.yaml: nested deeper than 64 levels"),
        ("A: &a\n  x: *a\n", "nested deeper than 64 levels"),
        (f"A:\n  x0: &x0 [1]\n{BOMB}", "an alias refers to itself, or to too much"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(DynamoError) as raised:
        merged_config(str(file), {}, [])
    assert message in str(raised.value)


def test_an_empty_file_is_an_empty_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("# nothing\n")
    assert merged_config(str(file), {}, []) == {}


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DynamoError, match=r"cannot read .*nope\.yaml: No such file"):
        merged_config(str(tmp_path / "nope.yaml"), {}, [])


@pytest.mark.parametrize("override", ["x=1", "A.=1", ".x=1"])
def test_an_override_without_service_and_key_is_an_error(override: str) -> None:
    with pytest.raises(DynamoError, match=r"an override is written --Service\.key=value"):
        merged_config(None, {}, [override])


def test_wrong_service_args_of_the_command_line_are_named() -> None:
    with pytest.raises(DynamoError, match=r"command line: A\.ServiceArgs: workers"):
        merged_config(None, {}, ["A.ServiceArgs.workers=abc"])


@pytest.mark.parametrize(
    "envs", ['{"A=B": "1"}', '{"": "1"}', '{"A": "a\\u0000"}', '{"DYNAMO_SERVICE_CONFIG": "{}"}', "[1]", '{"A": [1]}']
)
def test_variables_that_no_process_can_have_are_named(envs: str) -> None:
    with pytest.raises(DynamoError, match=r"command line: A\.ServiceArgs: envs"):
        merged_config(None, {}, [f"A.ServiceArgs.envs={envs}"])


@pytest.mark.parametrize("override", ["A.x=" + "[" * 990 + "]" * 990, "A." + "x." * 100 + "x=1"])
def test_an_override_that_is_too_deep_is_an_error(override: str) -> None:
    with pytest.raises(DynamoError, match="nested deeper than 64 levels"):
        merged_config(None, {}, [override])


def test_a_number_too_long_for_python_stays_text() -> None:
    assert parse_value("9" * 5000) == "9" * 5000


def test_a_configuration_that_is_too_large_is_an_error() -> None:
    with pytest.raises(DynamoError, match="the configuration is too large: 131"):
        merged_config(None, {}, [f"A.x={'y' * (128 << 10)}"])


@pytest.mark.parametrize("text", ["{", "[]", '{"A": 1}', "[" * 100_000])
def test_an_environment_that_is_no_configuration_is_an_error(text: str) -> None:
    with pytest.raises(DynamoError, match="DYNAMO_SERVICE_CONFIG"):
        ServiceConfig.from_json(text)


sections = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | st.integers(0, 3), max_size=3),
    max_leaves=8,
)


@given(base=sections, override=sections)
def test_a_merge_keeps_every_value_of_the_override(base: Section, override: Section) -> None:
    merged = deep_merge(base, override)
    assert deep_merge(merged, override) == merged
    assert set(merged) == set(base) | set(override)
    assert deep_merge(base, {}) == base
    assert deep_merge({}, override) == override


# How a service reads it.


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


class Model:
    def __init__(self, model_name: str = "a", *, temperature: float = 0.7) -> None: ...


class Open:
    def __init__(self, **values: object) -> None: ...


class Plain: ...


def test_keys_that_are_parameters_of_the_constructor_are_passed() -> None:
    section: Section = {"model-name": "b", "temperature": 0.5, "cache_size": 1, "ServiceArgs": {}, "common-configs": []}
    assert constructor_arguments(Model, section) == {"model_name": "b", "temperature": 0.5}
    assert constructor_arguments(Open, section) == {"model_name": "b", "temperature": 0.5, "cache_size": 1}
    assert constructor_arguments(Plain, section) == {}


class Dictionary(dict[str, str]): ...


def test_keys_that_look_like_a_parameter_are_found() -> None:
    names = parameter_names(Model)
    assert names == ["model_name", "temperature"]
    section: Section = {"tempereture": 1, "model-name": "b", "cache_size": 1, "ServiceArgs": {}}
    assert misspelt(section, names) == [("tempereture", "temperature")]
    assert parameter_names(Open) == parameter_names(Plain) == parameter_names(Dictionary) == []


def test_a_parameter_without_a_value_is_named() -> None:
    class Needy:
        def __init__(self, model: str, *rest: str, size: int = 1, **more: str) -> None: ...

    check_arguments("Needy", Needy, {"model": "m"})
    with pytest.raises(DynamoError, match=r"Needy cannot be built without 'model': set it with --Needy\.model=VALUE"):
        check_arguments("Needy", Needy, {})
