"""The options of `dynamo run`, and with which words each has an effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dynamo._core.errors import WrongUsage
from dynamo.cli._run_words import Batch, Http, Input, Output, Remote, Text
from dynamo.entrypoint._ask_options import AskOptions

FlagValue = str | int | float


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says besides its words."""

    model_name: str | None
    wait_s: float
    request_timeout_s: float
    max_tokens: int | None
    temperature: float | None
    http_host: str
    http_port: int
    insecure: bool
    router_mode: str | None
    concurrency: int
    output: Path | None
    force: bool
    #: Options of the engine that were given, by their names; it has the others' defaults itself.
    engine: Mapping[str, FlagValue]
    #: The names of all that were given on the command line.
    given: frozenset[str]

    @property
    def asking(self) -> AskOptions:
        """How this process asks, with in=text and in=batch."""
        return AskOptions(
            request_timeout_s=self.request_timeout_s,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            concurrency=self.concurrency,
            output=self.output,
            force=self.force,
        )


#: Options that belong to some inputs only.
_INPUTS: dict[str, tuple[type[Input], ...]] = {
    "request_timeout_s": (Text, Http, Batch),
    "wait_s": (Text, Batch),
    "max_tokens": (Text, Batch),
    "temperature": (Text, Batch),
    "http_host": (Http,),
    "http_port": (Http,),
    "insecure": (Http,),
    "router_mode": (Http,),
    "concurrency": (Batch,),
    "output": (Batch,),
    "force": (Batch,),
}


def refuse_useless(options: RunOptions, asks: Input, answers: Output, engine_fields: frozenset[str]) -> None:
    """Raise `WrongUsage` for an option that was given and would have no effect.

    `engine_fields` are the options that the engine of this process has.
    """
    for name in sorted(options.given):
        inputs = _INPUTS.get(name)
        if inputs is not None and not isinstance(asks, inputs):
            belongs = " and ".join(kind.word for kind in inputs)
            raise WrongUsage(f"{_flag(name)} has no effect with {asks.word}: it is for {belongs}")
    for name in options.engine:
        if name not in engine_fields:
            raise WrongUsage(f"{_flag(name)} has no effect with {answers.word}: leave it out")
    if "wait_s" in options.given and not isinstance(answers, Remote):
        raise WrongUsage(f"--wait-s has no effect with {answers.word}: it is for out=dyn")
    if "router_mode" in options.given and not isinstance(answers, Remote):
        raise WrongUsage(f"--router-mode has no effect with {answers.word}: it is for out=dyn, where workers are")
    if "model_name" in options.given and isinstance(answers, Remote) and isinstance(asks, Http):
        raise WrongUsage("--model-name has no effect with in=http out=dyn: every model of the workers is served")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
