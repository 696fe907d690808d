"""The frontend's settings."""

from __future__ import annotations

import pytest

from dynamo._core.errors import ConfigError
from dynamo.frontend._config import FrontendConfig
from dynamo.runtime._settings import read_settings


def read(arguments: list[str], environ: dict[str, str]) -> FrontendConfig:
    return read_settings(FrontendConfig, arguments, environ, prog="prog", description="")


def test_flags_and_variables_are_those_of_the_fields() -> None:
    environ = {"DYN_HTTP_PORT": "7", "DYN_HTTP_HOST": "::1", "DYN_INSECURE": "true", "DYN_DRAIN_S": ""}
    config = read(["--http-port", "8", "--no-insecure"], environ)
    assert config == FrontendConfig(http_port=8, http_host="::1", insecure=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--http-port", "65536"], "--http-port is 65536: it must be from 0 to 65535"),
        (["--drain-s", "-1"], "--drain-s is -1.0"),
        (["--request-timeout-s", "0"], "--request-timeout-s is 0.0: it must be from 0.001 to 86400"),
        (["--http-keep-alive-s", "0.5"], "--http-keep-alive-s is 0.5"),
        (["--migration-limit", "-1"], "--migration-limit is -1: it must be from 0 to 1024"),
        (["--migration-max-seq-len", "0"], "--migration-max-seq-len is 0"),
        (["--http-body-limit-mb", "33"], "--http-body-limit-mb is 33.0"),
    ],
)
def test_limits_have_limits(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(arguments, {})


def test_the_migration_limit_is_the_workers_business_unless_it_is_given() -> None:
    assert read([], {}).migration_limit is None
    assert read([], {"DYN_MIGRATION_LIMIT": "0"}).migration_limit == 0
