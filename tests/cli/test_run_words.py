"""The words and options of `dynamo run`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.running import PLAIN
from typer.testing import CliRunner

from dynamo._core.address import EndpointId
from dynamo._core.errors import WrongUsage
from dynamo.cli._app import app
from dynamo.cli._run_words import Batch, Http, Local, Remote, Text, WorkerAt, parse_words


@pytest.mark.parametrize(
    ("words", "asks", "answers"),
    [
        (["model"], Text(), Local("transformers", "model")),
        (["out=echo", "model", "in=http"], Http(), Local("echo", "model")),
        (["./a=b"], Text(), Local("transformers", "./a=b")),
        (["in=text", "out=dyn"], Text(), Remote(None)),
        (["in=http", "out=dyn://a.b.c"], Http(), Remote(EndpointId("a", "b", "c"))),
        (["out=dyn://a"], Text(), Remote(EndpointId("a", "backend", "generate"))),
        (["in=dyn://a.b", "m"], WorkerAt(EndpointId("a", "b", "generate")), Local("transformers", "m")),
    ],
)
def test_words_may_stand_in_any_order_and_have_defaults(words: list[str], asks: object, answers: object) -> None:
    assert parse_words(words) == (asks, answers)


def test_a_batch_is_a_file_that_exists(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.touch()
    assert parse_words([f"in=batch:{file}", "out=dyn"]) == (Batch(file), Remote(None))
    for name in ("", "no-such-file", str(tmp_path)):
        with pytest.raises(WrongUsage, match=r"names no file: write in=batch:FILE\.jsonl"):
            parse_words([f"in=batch:{name}", "out=dyn"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give a MODEL"),
        (["in=grpc", "m"], "in=grpc is not known: write in=text, in=http, in=batch:FILE.jsonl or in=dyn://"),
        (["out=vllm", "m"], "out=vllm is not known: write out=echo, out=transformers, out=dyn or out=dyn://"),
        (["out=echo"], "out=echo needs a MODEL"),
        (["out=transformers"], "out=transformers needs a MODEL"),
        (["out=dyn", "m"], "choose one of them with --model-name m"),
        (["a", "b"], "the model 'a' and the model 'b': there can be only one"),
        (["in=text", "in=http", "m"], "in=text and in=http: there can be only one"),
        (["inn=text", "m"], "neither in=... nor out=...; if it is a model's directory, write ./inn=text"),
        (["out=dyn://"], "'' is not a valid namespace"),
        (["out=dyn://a.b.c.d"], "has 4 parts: write dyn://NAMESPACE.COMPONENT.ENDPOINT"),
        (["out=dyn://a..c"], "'' is not a valid component"),
        (["in=dyn", "m"], "in=dyn is not known"),
        (["in=dyn://a", "out=dyn"], "would pass requests on"),
    ],
)
def test_words_that_are_wrong_are_refused_with_what_to_write(words: list[str], says: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        parse_words(words)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["out=nonsense", "m"], "error: out=nonsense is not known"),
        (["out=echo", "m", "--http-port", "1"], "error: --http-port has no effect with in=text: it is for in=http\n"),
        (
            ["in=http", "m", "--max-tokens", "1"],
            "--max-tokens has no effect with in=http: it is for in=text and in=batch",
        ),
        (["out=echo", "m", "--device", "cpu"], "error: --device has no effect with out=echo: leave it out\n"),
        (["out=dyn", "--seed", "1"], "error: --seed has no effect with out=dyn: leave it out\n"),
        (["out=echo", "m", "--wait-s", "1"], "error: --wait-s has no effect with out=echo: it is for out=dyn\n"),
        (["in=http", "out=echo", "m", "--router-mode", "kv"], "error: --router-mode has no effect with out=echo"),
        (["in=http", "out=dyn", "--router-mode", "best"], "error: --router-mode='best' must be one of round-robin, "),
        (["in=http", "out=dyn", "--model-name", "a"], "error: --model-name has no effect with in=http out=dyn"),
        (["out=echo", "m", "--token-delay-s=-1"], "error: --token-delay-s is -1.0: it must be 0 or more\n"),
        (["m", "--dtype", "int8"], "error: --dtype='int8' must be one of auto, float32, bfloat16, float16\n"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["run", *arguments])
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_variable_that_is_wrong_is_named() -> None:
    result = CliRunner().invoke(app, ["run", "out=echo", "m"], env={"DYN_DRAIN_S": "x", "DYN_MAX_NUM_SEQS": "0"})
    assert result.exit_code == 2
    assert result.stderr == "error: DYN_MAX_NUM_SEQS is 0: it must be 1 or more\n"


def test_the_help_names_every_option_and_word() -> None:
    result = CliRunner().invoke(app, ["run", "--help"], env=PLAIN)
    assert result.exit_code == 0
    for word in (
        "in=text", "in=http", "in=batch:FILE.jsonl", "in=dyn://", "out=echo", "out=transformers", "out=dyn://",
        "--model-name", "--wait-s", "--request-timeout-s", "--max-tokens", "--temperature", "--http-host",
        "--http-port", "--insecure", "--concurrency", "--output", "--force", "--context-length",
        "--custom-jinja-template",
        "--max-num-seqs", "--token-delay-s", "--tokens-per-second", "--device", "--dtype", "--num-threads", "--seed",
        "8080", "DYN_HTTP_PORT",
    ):  # fmt: skip
        assert word in result.output
