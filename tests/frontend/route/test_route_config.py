"""What a person writes on the command line of `dynamo route`, and what is wrong with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dynamo._core.errors import ConfigError
from dynamo.frontend._route.addresses import EventsAddress
from dynamo.frontend._route.command import main
from dynamo.frontend._route.config import RouteConfig, read_config
from dynamo.llm._kv_router.config import RouterMode

ONE = ["--backend", "http://one:8000"]
TWO = [*ONE, "--backend=http://two:8000"]


def config(*arguments: str, **environ: str) -> RouteConfig:
    return read_config(arguments, environ)


def test_a_backend_is_given_once_for_each_server() -> None:
    assert [each.url for each in config(*TWO).addresses()] == ["http://one:8000", "http://two:8000"]


def test_the_variable_has_spaces_between_them() -> None:
    assert [each.url for each in config(DYN_BACKEND="http://a http://b").addresses()] == ["http://a", "http://b"]


@pytest.mark.parametrize("text", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_url_may_be_the_one_that_clients_use(text: str) -> None:
    assert config("--backend", text).addresses()[0].url == "http://h:1"


def test_a_server_may_be_below_a_path() -> None:
    assert config("--backend", "https://h/some/where/v1").addresses()[0].url == "https://h/some/where"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("localhost:8000", "it is written http://HOST:PORT"),
        ("ftp://h", "it is written http://HOST:PORT"),
        ("http://", "it is written http://HOST:PORT"),
        ("http://h:port", "it is written http://HOST:PORT"),
        ("http://h:99999", "it is written http://HOST:PORT"),
        ("http://[::1", "it is written http://HOST:PORT"),
        ("http://h?x=1", "it ends with the path"),
        ("http://me:secret@h", "leave the credentials out"),
        ("", "empty"),
    ],
)
def test_a_url_that_is_none_is_one_line_and_status_2(text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", text]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --backend ")
    assert why in said
    assert said.count("\n") == 1
    assert "secret" not in said


def test_the_modes_are_those_of_the_frontend_and_kv_is_the_default() -> None:
    assert config(*ONE).router_config().mode is RouterMode.KV
    assert config(*ONE, "--router-mode", "least-loaded").router_config().mode is RouterMode.LeastLoaded
    assert config(*ONE, DYN_ROUTER_MODE="random").router_config().mode is RouterMode.Random


def test_the_options_of_the_kv_router_are_there() -> None:
    kv_config = config(*ONE, "--router-temperature=0.5", "--router-ttl-secs=9").router_config().config
    assert kv_config is not None
    assert (kv_config.router_temperature, kv_config.router_ttl_secs, kv_config.use_kv_events) == (0.5, 9, False)


def test_events_are_given_in_the_order_of_the_backends() -> None:
    events = [
        "--backend-kv-events",
        "none",
        "--backend-kv-events",
        "tcp://h:5557,tcp://h:5558,bind",
        "--model-path",
        "/m",
    ]
    found = config(*TWO, *events)
    assert [each.events for each in found.addresses()] == [
        None,
        EventsAddress("tcp://h:5557", "tcp://h:5558", bind=True),
    ]
    kv_config = found.router_config().config
    assert kv_config is not None
    assert kv_config.use_kv_events


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([*TWO, "--backend", "http://one:8000/"], "is given twice"),
        ([*ONE, "--backend-kv-events"], "--backend-kv-events needs a value"),
        (["--backend", "--backend-kv-events"], "--backend needs a value"),
        ([*TWO, "--backend-kv-events=tcp://h:1", "--model-path=/m"], "once for each backend"),
        ([*ONE, "--backend-kv-events=h:1", "--model-path=/m"], "an endpoint is written tcp://HOST:PORT"),
        ([*ONE, "--backend-kv-events=tcp://h", "--model-path=/m"], "an endpoint of TCP is written"),
        ([*ONE, "--backend-kv-events=tcp://h:1,tcp://h:2,tcp://h:3", "--model-path=/m"], "one endpoint for replays"),
        ([*ONE, "--backend-kv-events=tcp://h:1"], "add --model-path"),
        ([*ONE, "--backend-kv-events=tcp://h:1", "--model-path=/m", "--no-router-use-kv-events"], "contradict"),
        ([*ONE, "--model-path=/m", "--router-mode=random"], "--model-path is for the router mode kv"),
        ([*ONE, "--router-temperature=1", "--router-mode=random"], "--router-temperature is for the router mode kv"),
        ([*ONE, "--router-replica-sync"], "do not"),
        ([*ONE, "--router-approximate-cache-policy=lru"], "add --backend-kv-blocks"),
        ([*ONE, "--active-decode-blocks-threshold=0.9"], "add --backend-kv-blocks"),
        ([*ONE, "--router-mode=best"], "must be one of"),
        ([*ONE, "--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_config(arguments, {})


def test_an_address_that_others_reach_needs_insecure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ONE, "--http-host", "0.0.0.0", "--http-port", "0"]) == 1
    assert "add --insecure" in capsys.readouterr().err


def test_a_model_directory_that_is_not_there_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ONE, "--http-port", "0", "--model-path", "/nowhere/at/all"]) == 2
    assert "model directory /nowhere/at/all does not exist" in capsys.readouterr().err


def test_without_the_http_client_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from dynamo.frontend._route.command import main\n"
        "sys.exit(main(['--backend', 'http://h:1']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: dynamo route needs aiohttp: install dynamo-serve[route]\n")
