"""How the options of routers are checked: what is wrong is a `ConfigError`, whose message the caller writes."""

from __future__ import annotations

from dynamo._core.errors import ConfigError
from dynamo.llm._numbers import shown


def check(is_right: bool, message: str) -> None:
    """Raise `ConfigError` with this message unless it is right."""
    if not is_right:
        raise ConfigError(message)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless it is one of these."""
    check(value in choices, f"{name} is {shown(value)}; it is one of {', '.join(choices)}")


def is_whole(value: object) -> bool:
    """Whether it is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)
