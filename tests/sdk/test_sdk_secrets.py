"""Secrets: which values are hidden, and that no error shows one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo.runtime import DynamoError
from dynamo.sdk._config import merged_config, parse_override
from dynamo.sdk._secrets import is_secret, without_secrets


@pytest.mark.parametrize(
    "key",
    ["api_key", "openai-api-key", "apiKey", "HF_TOKEN", "hfToken", "password", "db.password", "token"],
)
def test_a_key_like_that_of_a_secret_is_one(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        *("client_secret", "AWS_SECRET_ACCESS_KEY", "credentials", "private_key", "APIKey", "passwords"),
        *("Authorization", "HF_TOKEN_PROD", "api_key_openai", "api_keys", "access_tokens", "token1"),
    ],
)
def test_so_is_a_key_that_has_one_in_it(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        *("max_tokens", "key", "token_ids", "secretary", "tokenizer", "cache_key", "monkey", "", "1", "token_limit"),
        *("api_key_file", "tokens_per_second", "per_token_cost", "password_length", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_key_that_only_sounds_like_a_secret_is_none(key: str) -> None:
    assert not is_secret(key)


def test_secrets_are_hidden_at_every_depth() -> None:
    value = {
        "a": {"api_key": "x", "b": [{"token": 1}], "max_tokens": 2},
        "credentials": {"user": "u"},
        "env": [{"name": "HF_TOKEN", "value": "x"}, {"name": "MODE", "value": "y"}],
        "password": None,
    }
    assert without_secrets(value) == {
        "a": {"api_key": "***", "b": [{"token": "***"}], "max_tokens": 2},
        "credentials": "***",
        "env": [{"name": "HF_TOKEN", "value": "***"}, {"name": "MODE", "value": "y"}],
        "password": None,
    }


def test_who_logs_in_is_hidden_in_urls() -> None:
    value = {"url": "redis://me:hunter2@host:1/0", "both": "http://a:b@one,http://c:d/@two", "plain": "http://host:1/a"}
    assert without_secrets(value) == {
        "url": "redis://***@host:1/0",
        "both": "http://***@two",
        "plain": "http://host:1/a",
    }


def test_an_override_that_is_none_does_not_show_its_value() -> None:
    with pytest.raises(DynamoError, match=r"^--A\.\.api_key: an override is written --Service.key=value$"):
        parse_override("A..api_key=sk-123")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1234:56", "'***' is read as a number in base 60; write it in quotes"),
        ("*hunter2", "this is not YAML: found undefined alias; a text that begins with * or ! needs quotes"),
        ("!hunter2", "this is read as a tag; write it in quotes"),
        ("!hunter2!x y", "this is not YAML: found undefined tag handle; a text that begins with * or ! needs quotes"),
        ("@hunter2", "this is not YAML: found character '@' that cannot start any token"),
        ("hunter2: x", "this is not YAML: mapping values are not allowed here"),
    ],
)
def test_a_secret_that_needs_quotes_is_not_shown(tmp_path: Path, value: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"A:\n  api_key: {value}\n")
    with pytest.raises(DynamoError) as raised:
        merged_config(str(file), {}, [])
    assert raised.value.message.startswith(f"{file}:2: {message}")
    assert "hunter" not in raised.value.message


def test_a_wrong_section_does_not_show_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("api_key: sk-123\n")
    with pytest.raises(DynamoError, match=r"config.yaml:1: the section api_key must be a mapping, not '\*\*\*'"):
        merged_config(str(file), {}, [])
