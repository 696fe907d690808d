"""Which of a command's arguments are ours, and which are for vLLM's own parser.

Ours are the options of the settings. Everything else is vLLM's, in the order in which it came: so that an engine is
configured as with `vllm serve`. What comes after `--` is vLLM's, whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamo.runtime._settings import Settings, options_of

_HELP = ("-h", "--help")


def split_arguments(arguments: Sequence[str], kind: type[Settings]) -> tuple[list[str], list[str]]:
    """Return the arguments for settings of this kind, and those for vLLM."""
    takes_value = _flags(kind)
    ours: list[str] = []
    engines: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            engines.extend(rest)
            break
        flag, equals, _ = argument.partition("=")
        if flag not in takes_value:
            engines.append(argument)
            continue
        ours.append(argument)
        if takes_value[flag] and not equals and (value := next(rest, None)) is not None:
            ours.append(value)
    return ours, engines


def _flags(kind: type[Settings]) -> dict[str, bool]:
    """Each of our flags, and whether a value comes after it."""
    flags = dict.fromkeys(_HELP, False)
    for option in options_of(kind):
        flags[option.flag] = option.value_type is not bool
        if option.value_type is bool:
            flags["--no-" + option.flag.removeprefix("--")] = False
    return flags
