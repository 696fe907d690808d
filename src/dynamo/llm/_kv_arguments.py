"""What people give to the KV classes, checked where they give it.

An error names the parameter, what was given, and what is allowed: found later, it would be an index that never
matches, or a worker that nobody has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dynamo._core.errors import InvalidArgument
from dynamo.llm._numbers import is_number, shown

U64_MAX = 2**64 - 1
#: Ranks of one worker are counted from 0 to here.
DP_RANK_MAX = 1023


def check_block_size(name: str, value: object) -> None:
    """Raise `InvalidArgument` unless it is a number of tokens that a block can have."""
    if type(value) is not int or value < 1:
        raise InvalidArgument(f"{name} is {shown(value)}: give the tokens in a block of the workers' caches, 1 or more")


def check_tokens(name: str, value: object) -> None:
    """Raise `InvalidArgument` for what cannot be token ids as a whole; each of them is checked where it is hashed."""
    if value is None or isinstance(value, str | bytes | bytearray | Mapping | int | float):
        raise InvalidArgument(
            f"{name} is {shown(value)}: give a list of integers from 0 to 2**32 - 1, or an array of them"
        )


def check_hashes(name: str, value: object) -> None:
    """Raise `InvalidArgument` for what cannot be hashes of blocks as a whole."""
    if not isinstance(value, Collection) or isinstance(value, str | bytes | bytearray | Mapping):
        raise InvalidArgument(f"{name} is {shown(value)}: give a list of integers of 64 bits")


def check_whole(name: str, value: object, *, least: int = 0, most: int = U64_MAX) -> None:
    """Raise `InvalidArgument` unless it is an integer in these limits, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limits = f"of at least {least}" if most == U64_MAX else f"from {least} to {most}"
        raise InvalidArgument(f"{name} is {shown(value)}: give an integer {limits}")


def check_whole_or_none(name: str, value: object, *, least: int = 0, most: int = U64_MAX) -> None:
    """The same, where None means something, too."""
    if value is not None:
        check_whole(name, value, least=least, most=most)


def check_number(name: str, value: object) -> None:
    """Raise `InvalidArgument` unless it is a finite number."""
    if not is_number(value):
        raise InvalidArgument(f"{name} is {shown(value)}: give a finite number")


def check_number_or_none(name: str, value: object, *, above: float | None = None) -> None:
    """Raise `InvalidArgument` unless it is None or a finite number from 0, or above a limit."""
    if value is None:
        return
    if not is_number(value) or (value < 0 if above is None else value <= above):
        limit = "of at least 0" if above is None else f"above {above:g}"
        raise InvalidArgument(f"{name} is {shown(value)}: give a number {limit}, or None")


def check_text(name: str, value: object) -> None:
    """Raise `InvalidArgument` unless it is a str."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} is {shown(value)}: give a str")


def check_text_or_none(name: str, value: object) -> None:
    """The same, where None means something, too."""
    if value is not None and not isinstance(value, str):
        raise InvalidArgument(f"{name} is {shown(value)}: give a str, or None")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], what: str) -> None:
    """Raise `InvalidArgument` unless it is an object of this kind; `what` says how to get one."""
    if not isinstance(value, kind):
        raise InvalidArgument(f"{name} is {shown(value)}: give {what}")
