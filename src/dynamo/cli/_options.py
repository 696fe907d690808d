"""The settings of every command, and every variable that the system knows, with their tiers."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable

from dynamo._core.stability import Tier
from dynamo.runtime._settings import Option, Settings, options_of
from dynamo.runtime._variables import VARIABLES

#: Every command that is configured by settings: its tier, and where they are. They are imported when somebody asks.
COMMANDS = {
    "python -m dynamo.echo": (Tier.STABLE, "dynamo.echo.__main__.EchoOptions"),
    "python -m dynamo.frontend": (Tier.STABLE, "dynamo.frontend._config.FrontendConfig"),
    "python -m dynamo.mocker": (Tier.BETA, "dynamo.mocker.__main__.MockerOptions"),
    "python -m dynamo.router": (Tier.BETA, "dynamo.router._config.RouterOptions"),
    "python -m dynamo.transformers": (Tier.STABLE, "dynamo.transformers.__main__.TransformersOptions"),
    "python -m dynamo.vllm": (Tier.BETA, "dynamo.vllm.__main__.VllmOptions"),
    "dynamo route": (Tier.BETA, "dynamo.frontend._route.config.RouteConfig"),
}
_FROM_STABLE = list(Tier)
#: What a variable begins with that can only be one of ours.
OURS = ("DYN_", "DYNAMO_")


def settings_of_commands() -> dict[str, type[Settings]]:
    """Return the settings of each of these commands."""
    found: dict[str, type[Settings]] = {}
    for command, (_, path) in COMMANDS.items():
        module, _, name = path.rpartition(".")
        found[command] = getattr(importlib.import_module(module), name)
    return found


def tier_in(command: str, option: Option) -> Tier:
    """The tier of an option in a command: never more stable than that."""
    return max(COMMANDS[command][0], option.tier, key=_FROM_STABLE.index)


def known_variables() -> dict[str, Tier]:
    """Return every variable that the system reads, with its tier where it is most stable."""
    known = {variable.name: variable.tier for variable in VARIABLES}
    for command, settings in settings_of_commands().items():
        for option in options_of(settings):
            tier = tier_in(command, option)
            known[option.variable] = min(known.get(option.variable, tier), tier, key=_FROM_STABLE.index)
    return known


def remarks(names: Iterable[str]) -> dict[str, str]:
    """Say of the variables among these what is remarkable: that one is not stable, or that nothing of ours reads it."""
    ours = [name for name in names if name.startswith(OURS)]
    known = known_variables() if ours else {}
    said = {name: _remark(name, known) for name in ours}
    return {name: remark for name, remark in said.items() if remark}


def _remark(name: str, known: dict[str, Tier]) -> str:
    if name in known:
        return "" if known[name] is Tier.STABLE else str(known[name])
    close = difflib.get_close_matches(name, known, n=1)
    return f"nothing reads it{f'; did you mean {close[0]}?' if close else ''}"
