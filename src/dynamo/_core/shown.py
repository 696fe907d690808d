"""What somebody gave or said, as text for a message."""

from __future__ import annotations

from collections.abc import Callable

SHOWN_CHARS = 200


def shown(value: object, chars_max: int = SHOWN_CHARS) -> str:
    """Return a value as a message shows it, whatever it is; what is longer ends with three dots."""
    return cut(_told(repr, value), chars_max)


def one_line(said: object, chars_max: int) -> str:
    """Return what a value or an error says, whatever it is, in a single line of so many characters."""
    return cut(" ".join(_told(str, said).split()), chars_max)


def cut(text: str, chars_max: int) -> str:
    """Return a text; what is longer ends with three dots."""
    return text if len(text) <= chars_max else text[:chars_max] + "..."


def _told(as_text: Callable[[object], str], value: object) -> str:
    try:
        return as_text(value)
    except Exception as error:  # whatever somebody's __repr__ or __str__ raises, or an int of too many digits
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
