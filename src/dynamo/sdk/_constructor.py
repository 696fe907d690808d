"""What the constructor of a service takes, and what a configuration has for it."""

from __future__ import annotations

import difflib
import inspect

from dynamo._core.errors import ConfigError
from dynamo.sdk._sections import COMMON_CONFIGS, SERVICE_ARGS, Section

#: How alike a key and a parameter are before one is taken for the other, misspelt.
_ALIKE = 0.85


def parameter_names(inner: type) -> list[str]:
    """Return the parameters that a configuration can fill. None are told of a constructor that takes any keyword."""
    parameters = _parameters(inner)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def constructor_arguments(inner: type, section: Section) -> dict[str, object]:
    """Return the values of a section that are parameters of the constructor, by their names there.

    A dash in a key is an underscore in a parameter. A constructor with `**kwargs` takes every key.
    """
    names = parameter_names(inner)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(inner))
    arguments = {key.replace("-", "_"): value for key, value in section.items() if _is_value(key)}
    return {name: value for name, value in arguments.items() if takes_all or name in names}


def check_arguments(name: str, inner: type, arguments: dict[str, object]) -> None:
    """Raise `ConfigError` for a parameter that has no value."""
    for parameter in _parameters(inner):
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not is_variadic and parameter.name not in arguments:
            option = f"--{name}.{parameter.name}=VALUE"
            raise ConfigError(f"{name} cannot be built without {parameter.name!r}: set it with {option}")


def misspelt(section: Section, names: list[str]) -> list[tuple[str, str]]:
    """Return the keys that look like one of the parameters, each with that parameter."""
    found = []
    for key in section:
        name = key.replace("-", "_")
        close = difflib.get_close_matches(name, names, n=1, cutoff=_ALIKE)
        if _is_value(key) and name not in names and close:
            found.append((key, close[0]))
    return found


def _parameters(inner: type) -> list[inspect.Parameter]:
    if inner.__init__ is object.__init__:  # type: ignore[misc]
        return []
    try:
        return list(inspect.signature(inner).parameters.values())
    except ValueError:  # written in C, and silent about it
        return []


def _is_value(key: str) -> bool:
    return key != SERVICE_ARGS and not key.endswith(COMMON_CONFIGS)
