"""The options of a worker: one field each, from which flag, variable and help text are derived.

A component adds its own in a subclass. A flag beats its variable, `DYN_` and the field's name in
capitals, and the variable beats the default.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TypeVar, get_args, get_type_hints

from dynamo._core.errors import ConfigError
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, MIGRATION_LIMIT

O = TypeVar("O", bound="WorkerOptions")  # noqa: E741
V = TypeVar("V")


def option(default: V, about: str, *, least: float | None = None, choices: Sequence[str] = ()) -> V:
    """Declare a field that is an option; `least` is the smallest number that it takes."""
    return field(default=default, metadata={"help": about, "least": least, "choices": choices})


def required_option(about: str) -> str:
    """Declare a text field that must be given."""
    declared: str = field(metadata={"help": about})
    return declared


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What every worker of a model can be told."""

    model_path: str = required_option("model directory, or the model's name on the hub where the engine can fetch it")
    model_name: str | None = option(None, "what requests call the model; without it, the name in the model path")
    namespace: str = option("dynamo", "namespace of the endpoint")
    component: str = option("backend", "component of the endpoint")
    endpoint: str = option("generate", "name of the endpoint")
    endpoint_types: str = option("chat,completions", "which APIs the model is served through, separated by commas")
    context_length: int | None = option(None, "longest prompt and output together, if less than the model's", least=1)
    custom_jinja_template: str | None = option(None, "file of a chat template to use instead of the model's")
    kv_cache_block_size: int = option(KV_CACHE_BLOCK_SIZE, "tokens of a block in the eyes of a KV router", least=1)
    migration_limit: int = option(MIGRATION_LIMIT, "times that a request may move on from a lost worker", least=0)
    discovery: str | None = option(None, "where workers are found, as a URL: file:///some/dir, etcd://host:2379")
    request_plane: str | None = option(None, "how workers are called, as a URL: tcp:")

    def __post_init__(self) -> None:
        for declared in fields(self):
            value, least = getattr(self, declared.name), declared.metadata.get("least")
            if least is not None and value is not None and not value >= least:
                raise ConfigError(f"{_flag(declared)} is {value}: it must be {least} or more", setting=declared.name)


def read_options(
    kind: type[O], arguments: Sequence[str], environ: Mapping[str, str], *, prog: str, description: str
) -> O:
    """Merge flags, variables and defaults. Exits like argparse does on `--help` and on wrong flags."""
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    types = get_type_hints(kind)
    for declared in fields(kind):
        value_type = _value_type(types[declared.name])
        from_environ = environ.get(_variable(declared)) or None
        is_required = declared.default is MISSING
        about = f"{declared.metadata['help']} [{_variable(declared)}] "
        about += "(required)" if is_required else f"(default: {_shown(declared.default)})"
        parser.add_argument(
            _flag(declared),
            dest=declared.name,
            type=value_type,
            # argparse converts a default that is text as if it were typed, and reports it the same way.
            default=from_environ if from_environ is not None or is_required else declared.default,
            required=is_required and from_environ is None,
            choices=declared.metadata.get("choices") or None,
            metavar=None if declared.metadata.get("choices") else _placeholder(declared, value_type),
            help=about.replace("%", "%%"),
        )
    return kind(**vars(parser.parse_args(arguments)))


def _value_type(hint: object) -> type[str] | type[int] | type[float]:
    names = get_args(hint) or (hint,)
    return next(kind for kind in (str, int, float) if kind in names)


def _flag(declared: Field[object]) -> str:
    return "--" + declared.name.replace("_", "-")


def _variable(declared: Field[object]) -> str:
    return "DYN_" + declared.name.upper()


def _placeholder(declared: Field[object], value_type: type) -> str:
    if value_type is str:
        return "TEXT"
    return "SECONDS" if declared.name.endswith("_s") else "N"


def _shown(default: object) -> str:
    return "none" if default is None else str(default)
