"""Numbers that people give: which make sense as such, and how what they gave is shown to them."""

from __future__ import annotations

import math
from typing import TypeGuard

from dynamo._core.shown import shown as shown_whole

#: So much of what somebody gave instead of a number is shown.
SHOWN_CHARS = 64


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number that a float can be."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: object) -> str:
    """Return what somebody gave as the text of a message, which is not long."""
    return shown_whole(value, SHOWN_CHARS)
