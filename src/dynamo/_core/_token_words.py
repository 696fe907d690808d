"""Token ids as bytes, which is what is hashed: one little-endian u32 for each.

A prompt comes as a list from JSON, as an array from a tokenizer, or as 64-bit integers from numpy. Whatever is not an
integer from 0 to 2**32 - 1 is refused with its position, True and 1.0 included: hashed as something else, it would
make a prompt find the cache of another.
"""

from __future__ import annotations

import operator
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import msgspec

from dynamo._core.errors import InvalidArgument

if TYPE_CHECKING:
    from typing_extensions import Buffer

if sys.byteorder != "little":
    raise ImportError("block hashes are of tokens in little-endian order, and this machine is big-endian")


class NdArray(Protocol):
    """A numpy array, which type checkers take for a buffer only from Python 3.12 on."""

    @property
    def __array_interface__(self) -> object: ...


#: Integers, or a buffer of integers of 32 or 64 bits: `array("I")` (the fastest), a memoryview, an ndarray.
TokenIds: TypeAlias = "Sequence[int] | Buffer | NdArray"

WORD_BYTES = 4


class _Integers(msgspec.Struct, array_like=True):
    """What a list is converted to, to check it: msgspec looks a struct up, where it analyses `list[int]` each time."""

    token_ids: list[int]


# Long prompts are converted by the piece: the copies of a piece are smaller than the 128 KiB from which on malloc asks
# the system for each. 128k tokens as a whole take 1.5 times as long.
_TOKENS_AT_ONCE = 8192
#: The type code of `array` for the format and the size of a buffer's items.
_TYPE_CODES = (
    {(format, 4): "i" for format in "il"} | {(format, 4): "I" for format in "IL"}
    | {(format, 8): "q" for format in "lqn"} | {(format, 8): "Q" for format in "LQN"}
)  # fmt: skip

_Pieces = TypeVar("_Pieces", list[int], tuple[int, ...], memoryview)


def token_words(token_ids: TokenIds) -> bytes:
    """Return token ids as words. Raises `InvalidArgument`, which names the position of what is no token id."""
    if isinstance(token_ids, list):
        return _joined(_words_of_integers, token_ids)
    if isinstance(token_ids, tuple):
        return _joined(_words_of_integers, token_ids)
    try:
        view = memoryview(token_ids)  # type: ignore[arg-type]  # what is no buffer is told apart here
    except (TypeError, ValueError) as error:  # ValueError: numpy has types that no buffer can hold
        if isinstance(token_ids, Sequence):
            return _joined(_words_of_integers, list(token_ids))
        raise InvalidArgument(
            f"token_ids are {type(token_ids).__name__}; pass a list of integers or an array of them"
        ) from error
    return _words_of_buffer(view)


def _joined(words_of: Callable[[_Pieces, int], bytes], token_ids: _Pieces) -> bytes:
    if len(token_ids) <= _TOKENS_AT_ONCE:
        return words_of(token_ids, 0)
    starts = range(0, len(token_ids), _TOKENS_AT_ONCE)
    return b"".join([words_of(token_ids[start : start + _TOKENS_AT_ONCE], start) for start in starts])


def _words_of_integers(token_ids: Sequence[int], first: int) -> bytes:
    words = array("I")
    try:
        # 2.8 ns/token to refuse what `fromlist` would take for an integer (True); `set(map(type, ...))` takes 12.
        # Then 2.9 ns/token; `array("I", ...)` takes 4.2 and `struct.pack` 3.6.
        words.fromlist(msgspec.convert((token_ids,), _Integers).token_ids)
    except (msgspec.ValidationError, OverflowError):
        words.fromlist(_checked(token_ids, first))
    return words.tobytes()


def _words_of_buffer(view: memoryview) -> bytes:
    type_code = _type_code(view)
    if type_code is None or view.ndim != 1:
        raise InvalidArgument(
            f"token_ids are a buffer of {view.ndim} dimensions and format {view.format!r}; "
            "pass one dimension of integers of 32 or 64 bits, in this machine's byte order"
        )
    return view.tobytes() if type_code == "I" else _joined(_words_of_view, view)


def _words_of_view(view: memoryview, first: int) -> bytes:
    """Convert integers that may be negative or too large."""
    raw = words = view.tobytes()
    if view.itemsize == WORD_BYTES:
        # The sign is the highest bit of every fourth byte, and bytes without the highest bit are ASCII.
        are_good = raw[3::4].isascii()
    else:
        halves = array("I", raw)
        words, high = halves[::2].tobytes(), halves[1::2].tobytes()
        are_good = high == bytes(len(high))
    return words if are_good else array("I", _checked(array(_type_code(view) or "", raw), first)).tobytes()


def _type_code(view: memoryview) -> str | None:
    return _TYPE_CODES.get((view.format.removeprefix("<"), view.itemsize))


def _checked(token_ids: Iterable[object], first: int) -> list[int]:
    """Return token ids as integers (numpy's are, too), one by one, and name the first that is none."""
    checked = []
    for position, token_id in enumerate(token_ids, first):
        value = _index(token_id)
        if value is None or not 0 <= value < 2**32:
            raise InvalidArgument(
                f"token {position} of token_ids is {token_id!r:.80}; token ids are integers from 0 to 2**32 - 1",
                position=position,
            )
        checked.append(value)
    return checked


def _index(value: object) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
