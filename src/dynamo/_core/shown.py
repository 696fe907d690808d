"""What somebody gave, as text for a message."""

from __future__ import annotations

SHOWN_CHARS = 200


def shown(value: object, chars_max: int = SHOWN_CHARS) -> str:
    """Return a value as a message shows it, whatever it is; what is longer ends with three dots."""
    try:
        text = repr(value)
    except Exception as error:  # whatever somebody's __repr__ raises, or an int of too many digits
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return text if len(text) <= chars_max else text[:chars_max] + "..."
