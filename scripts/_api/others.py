"""What is public and no name in Python: options of commands, variables of the environment, messages on the wire."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Iterator
from inspect import Parameter, get_annotations, signature
from typing import TypeGuard, get_args, get_type_hints

import msgspec
import typer
from pydantic import BaseModel
from scripts._api.items import Item
from scripts._api.signatures import annotation_text, parameters_text, value_text
from typer.models import ArgumentInfo, OptionInfo

from dynamo._core.stability import Stability, Tier, stability_of
from dynamo.cli import _app, _llmctl_app
from dynamo.cli._options import COMMANDS, settings_of_commands, tier_in
from dynamo.runtime._settings import Option, options_of
from dynamo.runtime._variables import VARIABLES

#: The release since which options and variables without another mark have their tiers.
_SINCE = "0.1"


def other_items() -> Iterator[Item]:
    """Yield all of them."""
    for variable in VARIABLES:
        yield Item(f"${variable.name}", "variable", _promise(variable.tier))
    for command, settings in settings_of_commands().items():
        yield Item(command, "command", _promise(COMMANDS[command][0]))
        yield from (_option(command, option) for option in options_of(settings))
    yield from _group(_app.app, "dynamo")
    yield from _group(_llmctl_app.app, "llmctl")
    yield from (_message(kind) for kind in messages())


def _promise(tier: Tier) -> str:
    return f"{tier} {_SINCE}"


def _option(command: str, option: Option) -> Item:
    form = f"option {option.placeholder()}" if option.value_type is not bool else "option on or off"
    form += " required" if option.is_required else f" = {option.shown_default()}"
    form += f", {option.allowed}" if option.allowed else ""
    return Item(f"{command} {option.flag}", f"{form}, ${option.variable}", _promise(tier_in(command, option)))


def _group(app: typer.Typer, path: str) -> Iterator[Item]:
    """Yield the commands of an application with their options, and those of its groups."""
    for info in app.registered_commands:
        callback = info.callback
        assert callback is not None
        name = f"{path} {info.name or callback.__name__}"
        mark = stability_of(callback) or Stability(Tier.STABLE, _SINCE)
        yield Item(name, "command", f"{mark.tier} {mark.since}")
        yield from _parameters(name, callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _group(group.typer_instance, f"{path} {group.name}")


def _parameters(command: str, callback: Callable[..., object]) -> Iterator[Item]:
    """Yield what a command takes, as its function declares it."""
    hints = get_type_hints(callback, include_extras=True)
    for name, parameter in signature(callback).parameters.items():
        declared = next((one for one in get_args(hints[name]) if isinstance(one, ArgumentInfo | OptionInfo)), None)
        if declared is None:
            continue
        kind, is_required = get_args(hints[name])[0], parameter.default is Parameter.empty
        takes = "on or off" if kind is bool else _value_name(kind)
        given = " required" if is_required else f" = {value_text(parameter.default)}"
        variable = f", ${declared.envvar}" if declared.envvar else ""
        if isinstance(declared, ArgumentInfo):
            yield Item(f"{command} {name.upper()}", f"argument {takes}{given}{variable}")
            continue
        # What is declared in `Annotated` begins where a default value could stand.
        written = [text for text in (declared.default, *(declared.param_decls or ())) if isinstance(text, str)]
        spelled = written or ["--" + name.replace("_", "-")]
        main = next(text for text in spelled if text.startswith("--")).partition("/")[0]
        also = "".join(f", {text}" for text in spelled if text != main)
        yield Item(f"{command} {main}", f"option {takes}{given}{also}{variable}")


def _value_name(kind: object) -> str:
    """The type of a value; of a choice, what can be chosen."""
    for inner in get_args(kind) or (kind,):
        if isinstance(inner, type) and issubclass(inner, enum.Enum):
            return "{" + ",".join(str(one.value) for one in inner) + "}"
    return annotation_text(kind)


#: Where the messages between processes are, and those of HTTP clients. What is marked in there travels.
MESSAGE_MODULES = (
    "dynamo._core.discovery._files",
    "dynamo._core.errors",
    "dynamo._core.event_plane._envelope",
    "dynamo._core.event_plane._zmq_reader",
    "dynamo._core.wire",
    "dynamo._core.work_queue._nats_stream",
    "dynamo._core.work_queue._server",
    "dynamo.llm._chat_messages",
    "dynamo.llm._kv_events",
    "dynamo.llm._kv_query",
    "dynamo.llm._kv_router.decision",
    "dynamo.llm._kv_router.load",
    "dynamo.llm._kv_router.replicas",
    "dynamo.llm._load_stats",
    "dynamo.llm._messages",
    "dynamo.llm._mode_decision",
    "dynamo.llm._model_card",
    "dynamo.llm._nvext",
    "dynamo.llm._openai",
    "dynamo.llm._registration",
    "dynamo.llm._wishes",
    "dynamo.router._messages",
    "dynamo.runtime._codec",
    "dynamo.runtime._instances",
)


def messages() -> list[type]:
    """Return every message that is marked."""
    found: list[type] = []
    for path in MESSAGE_MODULES:
        for value in vars(importlib.import_module(path)).values():
            if is_message(value) and value.__module__ == path and stability_of(value) is not None:
                found.append(value)
    return found


def is_message(value: object) -> TypeGuard[type]:
    """Whether it is a class of values that can travel."""
    return isinstance(value, type) and issubclass(value, msgspec.Struct | BaseModel)


def _message(kind: type) -> Item:
    """The item of a message: its fields in order where they have no names on the wire."""
    mark = stability_of(kind)
    assert mark is not None
    name = f"{kind.__module__.rpartition('.')[2].lstrip('_')}.{kind.__name__.lstrip('_')}"
    tag = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    form = f"message({parameters_text(_fields(kind))})" + ("" if tag is None else f" tagged {tag!r}")
    return Item(f"message {name}", form, f"{mark.tier} {mark.since}")


def _fields(kind: type) -> Iterator[Parameter]:
    """Yield the fields of a message as they are called on the wire."""
    annotations: dict[str, object] = {}
    for owner in reversed(kind.__mro__):
        annotations |= get_annotations(owner)
    is_array, names = False, {}
    if issubclass(kind, msgspec.Struct):
        is_array = kind.__struct_config__.array_like
        names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    place = Parameter.POSITIONAL_OR_KEYWORD if is_array else Parameter.KEYWORD_ONLY
    for field in signature(kind).parameters.values():
        if field.name in annotations:  # a model may be made in other ways, too
            name = names.get(field.name, field.name)
            yield Parameter(name, place, default=field.default, annotation=annotations[field.name])
