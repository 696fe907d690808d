"""The frontend's options: one field each, from which flag, variable and help text are derived.

A flag beats its variable, `DYN_` and the field's name in capitals, and the variable beats the default.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields

from dynamo._core.errors import ConfigError

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}

Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class FrontendConfig:
    """What the frontend listens on, and its limits."""

    http_host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    http_port: int = field(default=8000, metadata={"help": "port to listen on; 0 picks a free one", "to": 65535})
    insecure: bool = field(
        default=False, metadata={"help": "allow an address that other machines reach, although nobody is authenticated"}
    )
    namespace: str | None = field(default=None, metadata={"help": "serve the models of this namespace only"})
    discovery: str | None = field(
        default=None, metadata={"help": "where workers are found, as a URL: file:///some/dir, etcd://host:2379"}
    )
    request_plane: str | None = field(default=None, metadata={"help": "how workers are called, as a URL: tcp:"})
    request_timeout_s: float = field(
        default=600.0,
        metadata={"help": "seconds in which a request must be answered completely", "from": 0.001, "to": 86400},
    )
    drain_s: float = field(
        default=30.0, metadata={"help": "seconds that running requests get to finish at shutdown", "to": 86400}
    )
    http_keep_alive_s: float = field(
        default=75.0, metadata={"help": "seconds after which an idle connection is closed", "from": 1, "to": 86400}
    )
    http_body_limit_mb: float = field(
        default=32.0, metadata={"help": "largest request body in MiB", "from": 0.001, "to": 32}
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value, low, high = getattr(self, option.name), option.metadata.get("from", 0), option.metadata.get("to")
            if high is not None and not low <= value <= high:
                raise ConfigError(f"{_flag(option)} is {value}: it must be from {low} to {high}", setting=option.name)


def read_config(arguments: Sequence[str], environ: Mapping[str, str]) -> FrontendConfig:
    """Merge flags, variables and defaults. Exits like argparse does on `--help` and on wrong flags."""
    given = vars(_parser().parse_args(arguments))
    merged: dict[str, Value] = {}
    for option in fields(FrontendConfig):
        if given[option.name] is not None:
            merged[option.name] = given[option.name]
        elif (text := environ.get(_variable(option), "")) != "":
            merged[option.name] = _converted(option, text)
    return FrontendConfig(**merged)  # type: ignore[arg-type]  # each value has its field's type by now


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dynamo.frontend",
        description="Serve the OpenAI API for every model that workers register.",
        allow_abbrev=False,
    )
    for option in fields(FrontendConfig):
        about = f"{option.metadata['help']} [{_variable(option)}] (default: {_shown(option.default)})"
        if isinstance(option.default, bool):
            parser.add_argument(_flag(option), action=argparse.BooleanOptionalAction, default=None, help=about)
        else:
            kind = str if option.default is None else type(option.default)
            placeholder = {int: "N", float: "SECONDS" if option.name.endswith("_s") else "N"}.get(kind, "TEXT")
            parser.add_argument(_flag(option), type=kind, default=None, metavar=placeholder, help=about)
    return parser


def _converted(option: Field[Value], text: str) -> Value:
    kind = type(option.default)
    try:
        if kind is bool:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError(text)
            return text.lower() in _TRUE
        return kind(text) if kind in (int, float) else text
    except ValueError:
        raise ConfigError(
            f"{_variable(option)}={text!r} is not of type {kind.__name__}", setting=_variable(option)
        ) from None


def _flag(option: Field[Value]) -> str:
    return "--" + option.name.replace("_", "-")


def _variable(option: Field[Value]) -> str:
    return "DYN_" + option.name.upper()


def _shown(default: object) -> str:
    return "none" if default is None else "off" if default is False else str(default)
