"""The words of `dynamo run`: who asks (`in=`), who answers (`out=`), and the model, as values that are right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamo._core.address import EndpointId
from dynamo._core.errors import InvalidArgument, WrongUsage

INPUTS = "in=text, in=http, in=batch:FILE.jsonl or in=dyn://NAMESPACE.COMPONENT.ENDPOINT"
OUTPUTS = "out=echo, out=transformers, out=dyn or out=dyn://NAMESPACE.COMPONENT.ENDPOINT"
ENGINES = ("echo", "transformers")

_DYN = "dyn://"
#: What an address of the form dyn://NAMESPACE leaves out.
_COMPONENT_AND_ENDPOINT = ("backend", "generate")
#: Why an engine without a model needs one.
_ECHO_NEEDS = {"echo": ": it answers with the prompt, in the tokens of that model; weights are not needed"}
_KEYED = re.compile(r"[A-Za-z_-]+=.*", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """A person at a terminal asks, or whatever is piped in."""

    word = "in=text"


@dataclass(frozen=True)
class Http:
    """Clients of the OpenAI API ask."""

    word = "in=http"


@dataclass(frozen=True)
class Batch:
    """The lines of a file ask."""

    word = "in=batch"
    file: Path


@dataclass(frozen=True)
class WorkerAt:
    """Frontends elsewhere ask: this process is a worker."""

    word = "in=dyn"
    endpoint: EndpointId


Input = Text | Http | Batch | WorkerAt


@dataclass(frozen=True)
class Local:
    """An engine in this process answers."""

    engine: str
    model_path: str

    @property
    def word(self) -> str:
        return f"out={self.engine}"


@dataclass(frozen=True)
class Remote:
    """The workers that discovery knows answer: all of them, or those at one endpoint."""

    word = "out=dyn"
    endpoint: EndpointId | None


Output = Local | Remote


def parse_words(words: Sequence[str]) -> tuple[Input, Output]:
    """Return who asks and who answers. Raises `WrongUsage` with what to write instead."""
    given: dict[str, str] = {}
    for word in words:
        key, value = _split(word)
        if key in given:
            raise WrongUsage(f"{_called(key, given[key])} and {_called(key, value)}: there can be only one")
        given[key] = value
    model = given.get("model")
    asks = _input(given.get("in", "text"))
    answers = _output(given.get("out"), model)
    if isinstance(asks, WorkerAt) and isinstance(answers, Remote):
        raise WrongUsage(
            "in=dyn:// with out=dyn would pass requests on to other workers: use out=echo or out=transformers"
        )
    return asks, answers


def _split(word: str) -> tuple[str, str]:
    for key in ("in", "out"):
        if word.startswith(f"{key}="):
            return key, word.removeprefix(f"{key}=")
    if _KEYED.fullmatch(word):
        raise WrongUsage(f"{word!r} is neither in=... nor out=...; if it is a model's directory, write ./{word}")
    return "model", word


def _called(key: str, value: str) -> str:
    return f"the model {value!r}" if key == "model" else f"{key}={value}"


def _input(value: str) -> Input:
    if value == "text":
        return Text()
    if value == "http":
        return Http()
    if value.startswith("batch:"):
        return Batch(_batch_file(value.removeprefix("batch:")))
    if value.startswith(_DYN):
        return WorkerAt(_endpoint(f"in={value}", value))
    raise WrongUsage(f"in={value} is not known: write {INPUTS}")


def _batch_file(name: str) -> Path:
    file = Path(name)
    if not name or not file.is_file():
        raise WrongUsage(
            f"in=batch:{name} names no file: write in=batch:FILE.jsonl, a file with one JSON object per line"
        )
    return file


def _output(value: str | None, model: str | None) -> Output:
    if value is None and model is None:
        raise WrongUsage(f"nothing is there to answer: give a MODEL, which transformers runs, or write {OUTPUTS}")
    value = "transformers" if value is None else value
    if value in ENGINES:
        if model is None:
            raise WrongUsage(f"out={value} needs a MODEL, a directory or a name on the hub{_ECHO_NEEDS.get(value, '')}")
        return Local(value, model)
    if value != "dyn" and not value.startswith(_DYN):
        raise WrongUsage(f"out={value} is not known: write {OUTPUTS}")
    if model is not None:
        raise WrongUsage(
            f"out={value} takes no MODEL, the workers have theirs: choose one of them with --model-name {model}"
        )
    return Remote(None if value == "dyn" else _endpoint(f"out={value}", value))


def _endpoint(word: str, address: str) -> EndpointId:
    """Read dyn://NAMESPACE[.COMPONENT[.ENDPOINT]]."""
    form = "dyn://NAMESPACE.COMPONENT.ENDPOINT, where .COMPONENT.ENDPOINT may be left out and is then .backend.generate"
    parts = address.removeprefix(_DYN).split(".")
    if len(parts) > 3:
        raise WrongUsage(f"{word} has {len(parts)} parts: write {form}")
    try:
        return EndpointId(*parts, *_COMPONENT_AND_ENDPOINT[len(parts) - 1 :])
    except InvalidArgument as error:
        raise WrongUsage(f"{word}: {error.message}. Write {form}") from None
