"""Settings: an option is a field of a dataclass, and everything else is derived from it.

The field `http_port: int = option(8000, "port to listen on", least=0, most=65535)` is the flag
`--http-port`, the variable `DYN_HTTP_PORT`, a line of `--help` with both, the default and the range, and
the check of that range. A flag beats its variable, and the variable beats the default; a variable that is
empty counts as not set. Whatever is wrong is a `ConfigError` that names the flag or the variable. No
option is a secret: other users of a machine can read its command lines.

An option is stable unless its field says otherwise; then its help says so, too. One that is experimental says so in
the log when it is used, once in a process, wherever the settings come from.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import NoReturn, TypeVar, get_args, get_type_hints

from dynamo._core.errors import ConfigError
from dynamo._core.stability import Tier

logger = logging.getLogger(__name__)

#: What the options of every command mean that joins others.
DISCOVERY = "how processes find each other: etcd://HOST:2379, or file:///DIR; else a directory of this user's"
REQUEST_PLANE = "how processes call each other: tcp:, on this machine, or tcp://ADDRESS of this one; else tcp:"
EVENT_PLANE = "how events travel: zmq:, zmq://ADDRESS, or nats; else zmq:, or nats if NATS_SERVER is set"

V = TypeVar("V")
S = TypeVar("S", bound="Settings")

Value = str | int | float | bool

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_MEANT = {int: "a whole number", float: "a number", bool: "true or false"}


def option(
    default: V,
    about: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    choices: Sequence[str] = (),
    tier: Tier = Tier.STABLE,
) -> V:
    """Declare a field that is an option; a value is one of `choices`, or from `least` to `most`."""
    ranges = {"least": least, "most": most, "choices": tuple(choices)}
    return field(default=default, metadata={"help": about, "tier": tier, **ranges})


def required_option(about: str) -> str:
    """Declare a text field that must be given."""
    declared: str = field(metadata={"help": about, "tier": Tier.STABLE})
    return declared


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of a component's settings; whoever makes one, its values are in their ranges."""

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            _check(declared, value, declared.name)
            if _tier(declared) is Tier.EXPERIMENTAL and value != declared.default:
                _say_experimental(declared)


def read_settings(
    kind: type[S], arguments: Sequence[str], environ: Mapping[str, str], *, prog: str, description: str
) -> S:
    """Merge flags, variables and defaults. Raises `ConfigError`; exits, with status 0, on `--help`."""
    options = options_of(kind)
    given = vars(_parser(options, prog, description).parse_args(arguments))
    values: dict[str, Value] = {}
    for each in options:
        flagged, variable = given.get(each.name), environ.get(each.variable)
        if flagged is not None:
            values[each.name] = each.read(flagged, each.flag)
        elif variable:
            values[each.name] = each.read(variable, each.variable)
        elif each.is_required:
            raise ConfigError(f"{each.flag} is missing: give it, or set {each.variable}", setting=each.name)
    return kind(**values)


def options_of(kind: type[Settings]) -> list[Option]:
    """The options of a component, in order."""
    types = get_type_hints(kind)
    return [Option(declared, _value_type(types[declared.name])) for declared in fields(kind)]


def parse_bool(text: str) -> bool:
    """Read true or false as people write them; raises `ValueError`."""
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return word in _TRUE


@dataclass(frozen=True, slots=True)
class Option:
    """A field of the settings, as what a person types."""

    declared: Field[object]
    value_type: type[Value]

    @property
    def name(self) -> str:
        return self.declared.name

    @property
    def flag(self) -> str:
        return _flag(self.name)

    @property
    def variable(self) -> str:
        return _variable(self.name)

    @property
    def is_required(self) -> bool:
        return self.declared.default is MISSING

    @property
    def tier(self) -> Tier:
        return _tier(self.declared)

    @property
    def about(self) -> str:
        """What it means, and its tier unless it is stable."""
        says = str(self.declared.metadata["help"])
        return says if self.tier is Tier.STABLE else f"{says} [{self.tier}]"

    @property
    def allowed(self) -> str:
        """Which numbers it takes; empty if all, or none."""
        return _range(self.declared)

    def shown_default(self) -> str:
        return _shown(self.declared.default)

    def read(self, given: str | bool, source: str) -> Value:
        """Return the value that was given by `source`, a flag or a variable."""
        value = given if isinstance(given, bool) else self._convert(given, source)
        _check(self.declared, value, source)
        return value

    def _convert(self, text: str, source: str) -> Value:
        try:
            return parse_bool(text) if self.value_type is bool else self.value_type(text)
        except ValueError:
            raise ConfigError(f"{source}={text!r} is not {_MEANT[self.value_type]}", setting=source) from None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        about = f"{self.about} [{self.variable}] ({self._nature()})".replace("%", "%%")
        if self.value_type is bool:
            parser.add_argument(self.flag, action=argparse.BooleanOptionalAction, default=None, help=about)
        else:
            # The text is converted and checked here, in the same way as a variable's.
            parser.add_argument(self.flag, metavar=self.placeholder(), help=about)

    def _nature(self) -> str:
        says = "required" if self.is_required else f"default: {self.shown_default()}"
        return f"{says}; {self.allowed}" if self.allowed else says

    def placeholder(self) -> str:
        """What stands for a value."""
        if choices := self.declared.metadata.get("choices"):
            return "{" + ",".join(choices) + "}"
        if self.value_type is str:
            return "TEXT"
        return "SECONDS" if self.name.endswith("_s") else "N"


class _Parser(argparse.ArgumentParser):
    """argparse, whose complaints are errors like any other wrong setting."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}{self._meant(message)} (--help shows every option)") from None

    def _meant(self, message: str) -> str:
        """Say which option was probably meant by one that there is not."""
        _, is_unknown, given = message.partition("unrecognized arguments: ")
        flag = given.split()[0].partition("=")[0] if is_unknown else ""
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"; did you mean {close[0]}?" if close and flag.startswith("--") else ""


def _parser(options: Iterable[Option], prog: str, description: str) -> _Parser:
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    for each in options:
        each.add_to(parser)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return "DYN_" + name.removeprefix("dyn_").upper()


def _tier(declared: Field[object]) -> Tier:
    return Tier(declared.metadata.get("tier", Tier.STABLE))


#: The options of which it was said, in this process, that they are experimental.
_said: set[str] = set()


def _say_experimental(declared: Field[object]) -> None:
    if declared.name not in _said:
        _said.add(declared.name)
        logger.warning(
            "%s (%s) is experimental: it may change, or go, with any release",
            _flag(declared.name),
            _variable(declared.name),
        )


def _value_type(hint: object) -> type[Value]:
    """Return the type of a field that is declared as `int` or as `int | None`."""
    names = get_args(hint) or (hint,)
    return next(kind for kind in (bool, int, float, str) if kind in names)


def _check(declared: Field[object], value: object, source: str) -> None:
    choices = declared.metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{source}={value!r} must be one of {', '.join(choices)}", setting=source)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least, most = declared.metadata.get("least", -math.inf), declared.metadata.get("most", math.inf)
    if not (math.isfinite(value) and least <= value <= most):
        raise ConfigError(f"{source} is {value}: it must be {_range(declared) or 'finite'}", setting=source)


def _range(declared: Field[object]) -> str:
    """Say which numbers the option takes; empty if it takes all."""
    least, most = declared.metadata.get("least", -math.inf), declared.metadata.get("most", math.inf)
    if most == math.inf:
        return "" if least == -math.inf else f"{least} or more"
    return f"{most} or less" if least == -math.inf else f"from {least} to {most}"


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default is None else str(default)
