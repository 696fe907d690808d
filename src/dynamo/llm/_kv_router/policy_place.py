"""Where in somebody's code something is, and what it raised: for messages that people find their mistake by."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Collection
from pathlib import Path

from dynamo._core.shown import one_line

#: So much of what an exception says is passed on.
SAID_CHARS_MAX = 300


def place_of(error: BaseException, *, outside: Collection[str]) -> str | None:
    """Return the file and line in somebody's code that an exception came from; None if there is none.

    That is the deepest frame in the folder of the first one that is neither the interpreter's nor in the files
    `outside`: a line of theirs says more than one of a library that they call. Of a `SyntaxError` it is the line that
    is wrong.
    """
    walked = ((frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__))
    places = [(file, line) for file, line in walked if file not in outside and not file.startswith("<frozen ")]
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}"
    if not places:
        return None
    home = Path(places[0][0]).parent
    theirs = [one for one in places if Path(one[0]).is_relative_to(home) and "site-packages" not in one[0]]
    file, line = (theirs or places[:1])[-1]
    return f"{file}, line {line}"


def defined_at(thing: object) -> str | None:
    """Return the file and line where a function or a class, or that of an object, begins; None if nobody knows."""
    wanted = thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing)
    try:
        file, (_, line) = inspect.getsourcefile(wanted), inspect.getsourcelines(wanted)
    except (TypeError, OSError):
        return None
    return None if file is None else f"{file}, line {max(1, line)}"


def said_by(error: BaseException) -> str:
    """Return what an exception says, in one line that is not long, whatever it is."""
    *_, last = traceback.format_exception_only(error)
    return one_line(last, SAID_CHARS_MAX)
