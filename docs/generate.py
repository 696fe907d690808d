"""Writes what the code says itself: `python docs/generate.py`.

That is `cli.md`, the reference of the commands, and the folder `contracts`.
"""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

import dynamo.echo.__main__ as echo
import dynamo.frontend.__main__ as frontend
import dynamo.mocker.__main__ as mocker
import dynamo.router.__main__ as router
import dynamo.transformers.__main__ as transformers
import dynamo.vllm.__main__ as vllm
from dynamo.cli import _app, _llmctl_app
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._route.config import RouteConfig
from dynamo.router._config import RouterOptions
from dynamo.runtime._settings import Option, Settings, options_of

PAGE = Path(__file__).with_name("cli.md")
CONTRACTS = Path(__file__).with_name("contracts")
HEAD = """\
# The command line

Every command, and every option with its default, its variable and what it does. An option on the command line
beats its variable, and the variable beats the default. `python docs/generate.py` writes this page from the code.

Each command has `--help`, or `-h`. `dynamo` and `llmctl` have `--install-completion`, which makes bash, zsh or fish
complete their subcommands and options, and `--show-completion`, which prints the script that does.
"""

#: Commands that are modules, with their options.
_MODULES: dict[ModuleType, type[Settings]] = {
    frontend: FrontendConfig,
    transformers: transformers.TransformersOptions,
    vllm: vllm.VllmOptions,
    mocker: mocker.MockerOptions,
    router: RouterOptions,
    echo: echo.EchoOptions,
}
#: Subcommands whose options are settings.
_SETTINGS: dict[str, type[Settings]] = {"dynamo route": RouteConfig}
_VALUES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """An argument or an option of a command."""

    name: str
    kind: type
    info: ArgumentInfo | OptionInfo
    default: object
    is_repeated: bool = False

    @property
    def metavar(self) -> str:
        """What stands for an argument."""
        return str(self.info.metavar or self.name.upper())

    @property
    def usage(self) -> str:
        """How an argument is written in the usage."""
        once = self.metavar if self.is_required else f"[{self.metavar}]"
        return f"{once}..." if self.is_repeated else once

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def names(self) -> str:
        """How an option is written, with the value that it takes."""
        # What is declared in `Annotated` begins where a default value could stand.
        declared = [str(name) for name in (self.info.default, *(self.info.param_decls or ())) if name is not ...]
        names = declared or [self._flag(), *([self._flag("no-")] if self.kind is bool else [])]
        quoted = ", ".join(f"`{name}`" for part in names for name in part.split("/"))
        return quoted if self.kind is bool else f"{quoted} {self._value()}"

    def shown_default(self) -> str:
        if self.default is None or self.default is False or self.is_required:
            return ""
        if self.default is True:
            return "on"
        return f"`{self.default.value if isinstance(self.default, enum.Enum) else self.default}`"

    def variable(self) -> str:
        return f"`{self.info.envvar}`" if self.info.envvar else ""

    def _flag(self, prefix: str = "") -> str:
        return f"--{prefix}{self.name.replace('_', '-')}"

    def _value(self) -> str:
        if issubclass(self.kind, enum.Enum):
            return " or ".join(f"`{one.value}`" for one in self.kind)
        name = str(self.info.metavar or _VALUES[self.kind])
        least, most = self.info.min, self.info.max
        if least is None:
            return name
        return f"{name} of {least} or more" if most is None else f"{name} from {least} to {most}"


def reference() -> str:
    """Return the page."""
    modules = [_module(module, settings) for module, settings in _MODULES.items()]
    return "\n".join([HEAD, *_group(_app.app, "dynamo"), *_group(_llmctl_app.app, "llmctl"), *modules])


def _group(app: typer.Typer, path: str) -> Iterator[str]:
    """Yield the section of a command with subcommands, and theirs."""
    callback = app.registered_callback and app.registered_callback.callback
    about = _paragraphs(inspect.getdoc(callback) if callback else str(app.info.help))
    groups = {str(one.name): one.typer_instance for one in app.registered_groups if one.typer_instance}
    commands = {str(one.name): one.callback for one in app.registered_commands if one.callback}
    first_lines = {name: str(group.info.help) for name, group in groups.items()}
    first_lines |= {name: _paragraphs(inspect.getdoc(command))[0] for name, command in commands.items()}
    rows = [(f"[{name}](#{path.replace(' ', '-')}-{name})", _cell(text)) for name, text in first_lines.items()]
    yield "\n".join(
        [
            *_head(path, "[OPTIONS] COMMAND [ARGS]...", about),
            *_options(_parameters(callback) if callback else []),
            *_table(("Command", "What it does"), rows),
        ]
    )
    for name, group in groups.items():
        yield from _group(group, f"{path} {name}")
    for name, command in commands.items():
        yield _command(command, f"{path} {name}")


def _command(command: Callable[..., object], path: str) -> str:
    parameters = _parameters(command)
    arguments = [one for one in parameters if isinstance(one.info, ArgumentInfo)]
    usage = " ".join(["[OPTIONS]", *(one.usage for one in arguments)])
    rows = [
        (f"`{_cell(one.metavar)}`", "required" if one.is_required else "", _cell(str(one.info.help)))
        for one in arguments
    ]
    return "\n".join(
        [
            *_head(path, usage, _paragraphs(inspect.getdoc(command))),
            *_table(("Argument", "", "Meaning"), rows),
            *_options(parameters),
            *(_settings(_SETTINGS[path]) if path in _SETTINGS else []),
        ]
    )


def _module(module: ModuleType, settings: type[Settings]) -> str:
    """The section of a module that is run with `python -m`."""
    package = module.__name__.removesuffix(".__main__")
    about = _paragraphs((inspect.getdoc(module) or "").partition(": ")[2])
    usage = [f"{one.flag} {one.placeholder()}" for one in options_of(settings) if one.is_required]
    head = _head(f"python -m {package}", " ".join([*usage, "[OPTIONS]"]), [_capital(about[0])])
    return "\n".join([*head, *_settings(settings)])


def _settings(settings: type[Settings]) -> list[str]:
    rows = [_row(one) for one in options_of(settings)]
    return list(_table(("Option", "Default", "Variable", "Meaning"), rows))


def _row(one: Option) -> tuple[str, ...]:
    default = one.declared.default
    shown = "required" if one.is_required else "" if default is None or default is False else f"`{one.shown_default()}`"
    if isinstance(default, bool):
        names = f"`{one.flag}`, `--no-{one.flag.removeprefix('--')}`"
    else:
        names = f"`{one.flag}` {_cell(one.placeholder())}" + _allowed(one)
    return names, shown, f"`{one.variable}`", f"{_cell(_capital(one.about))}."


def _allowed(one: Option) -> str:
    if not one.allowed:
        return ""
    return f" {one.allowed}" if one.allowed.startswith("from") else f" of {one.allowed}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _head(path: str, usage: str, about: Iterable[str]) -> list[str]:
    paragraphs = [line for paragraph in about for line in (paragraph, "")]
    return [f"## {path}", "", f"`{path} {usage}`", "", *paragraphs]


def _options(parameters: Iterable[Parameter]) -> list[str]:
    rows = [
        (one.names(), one.shown_default(), one.variable(), _cell(str(one.info.help)))
        for one in parameters
        if isinstance(one.info, OptionInfo) and not one.info.hidden
    ]
    return _table(("Option", "Default", "Variable", "Meaning"), rows)


def _parameters(command: Callable[..., object]) -> list[Parameter]:
    hints = get_type_hints(command, include_extras=True)
    defaults = inspect.signature(command).parameters
    found = []
    for name, hint in hints.items():
        if get_origin(hint) is Annotated:
            kind, info = get_args(hint)[:2]
            found.append(Parameter(name, _plain(kind), info, defaults[name].default, _is_list(kind)))
    return found


def _is_list(hint: object) -> bool:
    return get_origin(hint) is list or any(get_origin(inner) is list for inner in get_args(hint))


def _plain(hint: object) -> type:
    """The type of one value of a parameter: `int` of `int | None`, `str` of `list[str]`."""
    for inner in get_args(hint):
        if inner is not type(None):
            return _plain(inner)
    assert isinstance(hint, type)
    return hint


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    cells = [headings, tuple("---" for _ in headings), *rows]
    return [*(f"| {' | '.join(row)} |" for row in cells), ""]


def write() -> None:
    """Write everything, and remove what is no contract any more."""
    from docs.contract_schemas import files

    PAGE.write_text(reference())
    CONTRACTS.mkdir(exist_ok=True)
    wanted = files()
    for path in CONTRACTS.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (CONTRACTS / name).write_text(text)


if __name__ == "__main__":
    # As a script it stands beside the others, and not in their package.
    sys.path.insert(0, str(PAGE.parents[1]))
    write()
