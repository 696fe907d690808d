"""Options: flags, variables, defaults."""

from __future__ import annotations

from dataclasses import fields

import pytest

from dynamo._core.errors import ConfigError
from dynamo.frontend._config import FrontendConfig, read_config


def test_a_flag_beats_its_variable_and_a_variable_the_default() -> None:
    environ = {"DYN_HTTP_PORT": "7", "DYN_HTTP_HOST": "::1", "DYN_INSECURE": "true", "DYN_DRAIN_S": ""}
    config = read_config(["--http-port", "8", "--no-insecure"], environ)
    assert config == FrontendConfig(http_port=8, http_host="::1", insecure=False)


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        ([], {"DYN_HTTP_PORT": "many"}, "DYN_HTTP_PORT='many' is not of type int"),
        ([], {"DYN_INSECURE": "maybe"}, "DYN_INSECURE='maybe' is not of type bool"),
        (["--http-port", "65536"], {}, "--http-port is 65536: it must be from 0 to 65535"),
        (["--drain-s", "-1"], {}, "--drain-s is -1.0"),
        (["--drain-s", "nan"], {}, "--drain-s is nan"),
        (["--request-timeout-s", "0"], {}, "--request-timeout-s is 0.0: it must be from 0.001 to 86400"),
        (["--http-body-limit-mb", "33"], {}, "--http-body-limit-mb is 33.0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(
    arguments: list[str], environ: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(arguments, environ)


def test_help_tells_every_flag_its_variable_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_config(["--help"], {})
    shown = capsys.readouterr().out
    for option in fields(FrontendConfig):
        assert f"--{option.name.replace('_', '-')}" in shown
        assert f"DYN_{option.name.upper()}" in shown
