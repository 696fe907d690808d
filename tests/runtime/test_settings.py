"""Settings: what is derived from a field, which value wins, and what a mistake is called."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import ConfigError
from dynamo._core.stability import Tier
from dynamo.runtime._settings import (
    Settings,
    option,
    options_of,
    parse_bool,
    read_settings,
    required_option,
)


@dataclass(frozen=True, kw_only=True)
class Basic(Settings):
    model_path: str = required_option("the model")
    max_seqs: int | None = option(None, "how many", least=1)


@dataclass(frozen=True, kw_only=True)
class Options(Basic):
    port: int = option(80, "100% a port", least=0, most=65535)
    pause_s: float | None = option(None, "a pause", least=0)
    offset: int = option(0, "any number")
    loss: float = option(0.0, "at most nothing", most=0)
    eager: bool = option(False, "be eager")
    strict: bool = option(True, "be strict")
    dtype: str = option("auto", "numbers", choices=("auto", "float32"))
    dyn_chat_processor: str | None = option(None, "named with our prefix")


def read(*arguments: str, **variables: str) -> Options:
    return read_settings(Options, ("--model-path", "m", *arguments), variables, prog="prog", description="It is.")


def help_text(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_without_flags_and_variables_the_defaults_hold() -> None:
    assert read() == Options(model_path="m")


def test_a_flag_beats_its_variable_and_a_variable_the_default() -> None:
    options = read("--port", "8", "--no-strict", DYN_PORT="7", DYN_OFFSET="-5", DYN_STRICT="1", DYN_PAUSE_S="0.5")
    assert options == Options(model_path="m", port=8, offset=-5, strict=False, pause_s=0.5)


def test_an_empty_variable_is_not_set() -> None:
    assert read(DYN_PORT="", DYN_EAGER="").port == 80


def test_the_type_is_that_of_the_field_and_not_of_its_default() -> None:
    options = read("--max-seqs", "3", DYN_PAUSE_S="2")
    assert (options.max_seqs, options.pause_s, type(options.pause_s)) == (3, 2.0, float)


def test_the_variable_of_a_flag_that_begins_with_dyn_does_not_say_it_twice() -> None:
    assert read(DYN_CHAT_PROCESSOR="a").dyn_chat_processor == "a"
    assert read("--dyn-chat-processor", "b", DYN_CHAT_PROCESSOR="a").dyn_chat_processor == "b"


def test_a_required_option_may_come_from_its_variable() -> None:
    options = read_settings(Options, [], {"DYN_MODEL_PATH": "elsewhere"}, prog="prog", description="")
    assert options.model_path == "elsewhere"


def test_a_required_option_that_is_missing_is_named_with_its_variable() -> None:
    with pytest.raises(ConfigError, match="--model-path is missing: give it, or set DYN_MODEL_PATH"):
        read_settings(Options, [], {}, prog="prog", description="")


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["--port", "many"], {}, "--port='many' is not a whole number"),
        ([], {"DYN_PORT": "1.5"}, "DYN_PORT='1.5' is not a whole number"),
        ([], {"DYN_PAUSE_S": "long"}, "DYN_PAUSE_S='long' is not a number"),
        ([], {"DYN_EAGER": "maybe"}, "DYN_EAGER='maybe' is not true or false"),
        (["--port", "65536"], {}, "--port is 65536: it must be from 0 to 65535"),
        ([], {"DYN_PORT": "-1"}, "DYN_PORT is -1: it must be from 0 to 65535"),
        (["--max-seqs", "0"], {}, "--max-seqs is 0: it must be 1 or more"),
        (["--pause-s", "nan"], {}, "--pause-s is nan: it must be 0 or more"),
        (["--pause-s", "inf"], {}, "--pause-s is inf: it must be 0 or more"),
        (["--loss", "1"], {}, "--loss is 1.0: it must be 0 or less"),
        (["--dtype", "int8"], {}, "--dtype='int8' must be one of auto, float32"),
        ([], {"DYN_DTYPE": "int8"}, "DYN_DTYPE='int8' must be one of auto, float32"),
        (["--ports", "1"], {}, "unrecognized arguments: --ports 1; did you mean --port? (--help shows every option)"),
        (["--no-strikt"], {}, "unrecognized arguments: --no-strikt; did you mean --no-strict?"),
        (["--zzz=1"], {}, "unrecognized arguments: --zzz=1 (--help shows every option)"),
        (["word"], {}, "unrecognized arguments: word (--help shows every option)"),
        (["--por", "1"], {}, "unrecognized arguments: --por 1"),
        (["--port"], {}, "argument --port: expected one argument"),
    ],
)
def test_a_mistake_names_the_flag_or_the_variable(arguments: list[str], variables: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(*arguments, **variables)
    assert words in raised.value.message
    assert "\n" not in raised.value.message


def test_a_flag_saves_from_a_wrong_variable() -> None:
    assert read("--port", "1", DYN_PORT="many").port == 1


def test_settings_that_are_made_directly_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="port is 65536: it must be from 0 to 65535"):
        Options(model_path="m", port=65536)


def test_help_has_flag_variable_default_and_range_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_text(capsys)
    for line in (
        "--model-path TEXT the model [DYN_MODEL_PATH] (required)",
        "--max-seqs N how many [DYN_MAX_SEQS] (default: none; 1 or more)",
        "--port N 100% a port [DYN_PORT] (default: 80; from 0 to 65535)",
        "--pause-s SECONDS a pause [DYN_PAUSE_S] (default: none; 0 or more)",
        "--offset N any number [DYN_OFFSET] (default: 0)",
        "--eager, --no-eager be eager [DYN_EAGER] (default: off)",
        "--strict, --no-strict be strict [DYN_STRICT] (default: on)",
        "--dtype {auto,float32} numbers [DYN_DTYPE] (default: auto)",
        "--dyn-chat-processor TEXT named with our prefix [DYN_CHAT_PROCESSOR] (default: none)",
    ):
        assert line in shown


@given(st.integers(0, 65535), st.booleans())
def test_every_value_in_range_is_read_back(port: int, eager: bool) -> None:
    by_flag = read("--port", str(port), "--eager" if eager else "--no-eager")
    by_variable = read(DYN_PORT=str(port), DYN_EAGER=str(eager))
    assert by_flag == by_variable == Options(model_path="m", port=port, eager=eager)


@pytest.mark.parametrize(("text", "value"), [("1", True), (" Yes ", True), ("off", False), ("FALSE", False)])
def test_true_and_false_are_read_as_people_write_them(text: str, value: bool) -> None:
    assert parse_bool(text) is value


@dataclass(frozen=True, kw_only=True)
class Tiered(Settings):
    weight: float = option(1.0, "a weight", tier=Tier.BETA)
    decay: float = option(0.0, "a decay", tier=Tier.EXPERIMENTAL)
    other_decay: float | None = option(None, "another", tier=Tier.EXPERIMENTAL)
    size: int = option(1, "a size")
    key: str | None = option(None, "a key", tier=Tier.BETA)


def test_help_says_which_options_are_not_stable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(Tiered, ["--help"], {}, prog="prog", description="It is.")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--weight N a weight [beta] [DYN_WEIGHT] (default: 1.0)" in shown
    assert "--decay N a decay [experimental] [DYN_DECAY] (default: 0.0)" in shown
    assert "--size N a size [DYN_SIZE] (default: 1)" in shown
    assert "--key TEXT a key [beta] [DYN_KEY]" in shown


def test_an_option_has_the_tier_that_its_field_says() -> None:
    tiers = [option.tier for option in options_of(Tiered)]
    assert tiers == [Tier.BETA, Tier.EXPERIMENTAL, Tier.EXPERIMENTAL, Tier.STABLE, Tier.BETA]


def test_an_experimental_option_that_is_used_says_so_once_wherever_it_comes_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        Tiered(weight=3.0, size=2)
        assert caplog.messages == []
        read_settings(Tiered, [], {"DYN_DECAY": "0.5"}, prog="prog", description="")
        Tiered(decay=0.7)
        Tiered(other_decay=0.1)
    assert caplog.messages == [
        "--decay (DYN_DECAY) is experimental: it may change, or go, with any release",
        "--other-decay (DYN_OTHER_DECAY) is experimental: it may change, or go, with any release",
    ]
