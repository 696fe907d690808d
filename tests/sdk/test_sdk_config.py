"""Configuration: the file, the command line, and how they merge."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.runtime import DynamoError
from dynamo.sdk._config import merged_config, parse_override, parse_value
from dynamo.sdk._sections import Json, Section, deep_merge, entries
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
        (
            "A:\n  ServiceArgs:\n    worker: 2\n",
            "config.yaml:3: A.ServiceArgs.worker: unknown key 'worker'; did you mean",
        ),
        (
            "A:\n  ServiceArgs:\n    workers: many\n",
            "config.yaml:3: A.ServiceArgs.workers: must be a whole number, not 'many'",
        ),
        (
            "A:\n  ServiceArgs:\n    envs: {X: 1}\n    dynamo:\n      name: a b\n",
            "config.yaml:5: A.ServiceArgs.dynamo.name: 'a b' is not",
        ),
        (
            "A:\n  ServiceArgs:\n    envs: [{name: [1], value: 1}]\n",
            "config.yaml:3: A.ServiceArgs.envs: [1] is no name",
        ),
        ("A:\n  ServiceArgs:\n    resources: 5\n", "config.yaml:3: A.ServiceArgs.resources: must be a mapping"),
        ("A:\n  ServiceArgs:\n    labels: 5\n", "config.yaml:3: A.ServiceArgs.labels: must be a mapping"),
        ("A:\n  ServiceArgs: 5\n", "config.yaml:2: A.ServiceArgs: must be a mapping"),
        ("A:\n  x: 1\n  common-configs: x\n", "config.yaml:3: A.common-configs: must be a list of keys of Common"),
        ("A:\n  common-configs: [[x]]\n", "config.yaml:2: A.common-configs: must be a list of keys of Common"),
        ("A:\n  x:\n    - off: 1\n", "config.yaml:3: the key 'off' is read as bool; write it in quotes"),
        ("A:\n  ? [a]\n  : 1\n", "config.yaml:2: the key here is read as seq; write it in quotes"),
        ("A:\n  x: 2020-01-01\n", "config.yaml:2: this is read as a timestamp; write it in quotes"),
        ("A:\n  x: 12:30\n", "config.yaml:2: '12:30' is read as a number in base 60; write it in quotes"),
        ("A:\n  x: [1, 0123]\n", "config.yaml:2: '0123' is read as a number in base 8; write it in quotes"),
        ("A:\n  x: 1:30.5\n", "config.yaml:2: '1:30.5' is read as a number in base 60; write it in quotes"),
        ("\tA:\n  x: 1\n", "config.yaml:1: this is not YAML: found character '\\t'"),
        ("A:\n  x: 1\n---\nB:\n  x: 1\n", "config.yaml:3: this is not YAML: but found another document"),
        ("A: &a {x: 1}\nB: *a\nA: *a\n", "config.yaml:3: the key 'A' stands here a second time"),
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


words = st.sampled_from(
    [
        "A:",
        "B",
        "\n",
        "\n  ",
        "\n    ",
        " ",
        "x: ",
        "ServiceArgs:",
        "workers: ",
        "1",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: ",
        "'",
        '"',
        "---",
        "!!set ",
        "? ",
        ": ",
        "#",
        "|",
        ">",
        "envs: ",
        "name: ",
        "value: ",
        "off: ",
        "\t",
        "\x00",
        ",",
    ]
)


@given(text=st.lists(words, max_size=25).map("".join))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        config = merged_config(None, {"DYN_DEPLOYMENT_CONFIG": text}, [])
    except DynamoError:
        return
    for path, _ in entries(cast(Section, config)):
        assert config.source_of(*path) is not None


def test_numbers_that_say_their_base_or_have_none_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("A: {a: 0x1F, b: 0b11, c: 1_000, d: 0, e: 0.5, f: -1.5e+3, g: '12:30', h: 12:30 h, i: 08}\n")
    numbers = {"a": 31, "b": 3, "c": 1000, "d": 0, "e": 0.5, "f": -1500.0}
    assert merged_config(str(file), {}, [])["A"] == numbers | {"g": "12:30", "h": "12:30 h", "i": "08"}


def test_a_file_of_another_system_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes("\ufeffA:\r\n  größe: 3\r\n  x: |\r\n    text\r\n".encode())
    config = merged_config(str(file), {}, [])
    assert config["A"] == {"größe": 3, "x": "text\n"}
    assert config.source_of("A", "größe") == f"{file}:2"


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
    with pytest.raises(DynamoError, match=r"^--A\.ServiceArgs\.workers: must be a whole number"):
        merged_config(None, {}, ["A.ServiceArgs.workers=abc"])
    with pytest.raises(DynamoError, match=r"^--A\.ServiceArgs: A\.ServiceArgs\.workers: must be a whole number"):
        merged_config(None, {}, ['A.ServiceArgs={"workers": "abc"}'])


def test_several_mistakes_are_told_together_each_in_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("A:\n  ServiceArgs:\n    workers: many\n    resources:\n      gpus: 1\nB:\n  ServiceArgs: 1\n")
    with pytest.raises(DynamoError) as raised:
        merged_config(str(file), {"DYNAMO_SERVICE_CONFIG": '{"A": {"ServiceArgs": {"image": 1}}}'}, [])
    lines = raised.value.message.splitlines()
    assert [line.removeprefix(str(tmp_path)).partition(": ")[0] for line in lines] == [
        "/config.yaml:5",
        "/config.yaml:3",
        "/config.yaml:7",
        "DYNAMO_SERVICE_CONFIG",
    ]


def test_a_wrong_value_is_told_although_another_source_overrides_it(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("A:\n  ServiceArgs:\n    workers: many\n")
    with pytest.raises(DynamoError, match=r"config\.yaml:3: A\.ServiceArgs\.workers"):
        merged_config(str(file), {}, ["A.ServiceArgs.workers=2"])


@pytest.mark.parametrize(
    "envs", ['{"A=B": "1"}', '{"": "1"}', '{"A": "a\\u0000"}', '{"DYNAMO_SERVICE_CONFIG": "{}"}', "[1]", '{"A": [1]}']
)
def test_variables_that_no_process_can_have_are_named(envs: str) -> None:
    with pytest.raises(DynamoError, match=r"^--A\.ServiceArgs\.envs: "):
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


# Where each value comes from.


def test_every_key_knows_its_source(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("A:\n  x: 1\n  y: 1\n  deep:\n    one: 1\n    two: 1\n  z: 1\n")
    environment = {"DYNAMO_SERVICE_CONFIG": '{"A": {"y": 2, "deep": {"two": 2}}}'}
    config = merged_config(str(file), environment, ["A.z=3", 'A.deep={"three": 3}'])
    assert config["A"]["deep"] == {"one": 1, "two": 2, "three": 3}
    assert config.source_of("A", "x") == f"{file}:2"
    assert config.source_of("A", "y") == "DYNAMO_SERVICE_CONFIG"
    assert config.source_of("A", "deep", "one") == f"{file}:5"
    assert config.source_of("A", "deep", "two") == "DYNAMO_SERVICE_CONFIG"
    assert config.source_of("A", "deep", "three") == "--A.deep"
    assert config.source_of("A", "z") == "--A.z"
    assert config.source_of("A", "nothing") is None


def test_a_value_that_is_merged_by_yaml_knows_the_line_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "Common: &common\n  x: 1\n  y: 1\nOther: &other\n  y: 2\n  z: 2\nA:\n  <<: [*common, *other]\n  x: 3\n"
    )
    config = merged_config(str(file), {}, [])
    assert config["A"] == {"x": 3, "y": 1, "z": 2}
    assert [config.source_of("A", key) for key in "xyz"] == [f"{file}:9", f"{file}:3", f"{file}:6"]


def test_variables_of_a_list_and_those_of_the_command_line_add_up(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("A:\n  ServiceArgs:\n    envs:\n      - name: X\n        value: 1\n      - {name: Y, value: 1}\n")
    config = merged_config(str(file), {}, ["A.ServiceArgs.envs.Y=0123", "A.ServiceArgs.envs.Z=True"])
    assert config["A"]["ServiceArgs"] == {"envs": {"X": 1, "Y": "0123", "Z": "True"}}
    assert config.source_of("A", "ServiceArgs", "envs", "X") == f"{file}:3"
    assert config.source_of("A", "ServiceArgs", "envs", "Y") == "--A.ServiceArgs.envs.Y"


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(overrides=st.lists(st.tuples(paths, st.integers(0, 9)), max_size=6))
def test_every_value_is_that_of_its_source(overrides: list[tuple[str, int]]) -> None:
    config = merged_config(None, {}, [f"S.{path}={value}" for path, value in overrides])
    last = {f"--S.{path}": value for path, value in overrides}
    for path, value in entries(config.get("S", {}), ("S",)):
        source = config.source_of(*path)
        assert source is not None
        assert isinstance(value, dict) or value == last[source]


def value_in(layers: list[Section], path: tuple[str, ...]) -> tuple[int, Json] | None:
    """What the last of the layers that has a key at this path says, and which one it is."""
    for number in reversed(range(len(layers))):
        found: Json = layers[number]
        for position, key in enumerate(path):
            if not isinstance(found, dict):
                return None  # a value that is no mapping hides all that stands below its key
            if key not in found:
                break
            found = found[key]
            if position == len(path) - 1:
                return number, found
    return None


@given(file=sections, variable=sections, overrides=st.lists(st.tuples(paths, st.integers(0, 9)), max_size=4))
def test_every_value_is_that_of_the_highest_source_that_has_it(
    file: Section, variable: Section, overrides: list[tuple[str, int]]
) -> None:
    typed = [f"S.{path}={value}" for path, value in overrides]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as written:
        json.dump({"S": file}, written)
        written.flush()
        config = merged_config(written.name, {"DYNAMO_SERVICE_CONFIG": json.dumps({"S": variable})}, typed)
    layers: list[Section] = [{"S": file}, {"S": variable}, *map(parse_override, typed)]
    names = [f"{written.name}:1", "DYNAMO_SERVICE_CONFIG", *(f"--{override.partition('=')[0]}" for override in typed)]
    for path in {path for layer in layers for path, _ in entries(layer)}:
        highest = value_in(layers, path)
        found = dict(entries(cast(Section, config))).get(path)
        if highest is None:
            assert path not in dict(entries(cast(Section, config)))
        else:
            assert config.source_of(*path) == names[highest[0]]
            assert found == highest[1] or (isinstance(found, dict) and isinstance(highest[1], dict))


# A deployment's own configuration.


@pytest.mark.parametrize("text", ["A:\n  x: 1\n", '{"A": {"x": 1}}'])
def test_the_configuration_of_a_deployment_replaces_everything_and_says_so(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("A:\n  y: 2\n")
    environment = {"DYN_DEPLOYMENT_CONFIG": text, "DYNAMO_SERVICE_CONFIG": '{"A": {"z": 3}}'}
    config = merged_config(str(file), environment, ["A.api_key=1"])
    assert config == {"A": {"x": 1}}
    assert config.warnings == [
        "the configuration is taken from DYN_DEPLOYMENT_CONFIG alone, and not from "
        f"{file}, DYNAMO_SERVICE_CONFIG, --A.api_key"
    ]
    assert (config.source_of("A", "x") or "").startswith("DYN_DEPLOYMENT_CONFIG")


def test_a_deployment_that_replaces_nothing_is_told_too() -> None:
    config = merged_config(None, {"DYN_DEPLOYMENT_CONFIG": "{}"}, [])
    assert config.warnings == ["the configuration is taken from DYN_DEPLOYMENT_CONFIG alone"]
    assert merged_config(None, {"DYN_DEPLOYMENT_CONFIG": " "}, ["A.x=1"]).warnings == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: 5", "DYN_DEPLOYMENT_CONFIG:1: the section A must be a mapping"),
        ("A:\n  ServiceArgs:\n    workers: x\n", "DYN_DEPLOYMENT_CONFIG:3: A.ServiceArgs.workers"),
        ('{"A": {"ServiceArgs": {"workers": "x"}}}', "DYN_DEPLOYMENT_CONFIG: A.ServiceArgs.workers"),
        ("{", "DYN_DEPLOYMENT_CONFIG:1: this is not YAML"),
    ],
)
def test_a_wrong_configuration_of_a_deployment_is_named(text: str, message: str) -> None:
    with pytest.raises(DynamoError) as raised:
        merged_config(None, {"DYN_DEPLOYMENT_CONFIG": text}, [])
    assert message in str(raised.value)
