"""Where in the user's code something went wrong: one line of an error, without our own frames."""

from __future__ import annotations

import itertools
import os
import traceback
from collections.abc import Iterator

import dynamo

_OURS = tuple(os.path.abspath(path) + os.sep for path in dynamo.__path__)
#: Where os.environ is.
_OS_FILES = ("<frozen os>", os.__file__)
_LINE_CHARS_MAX = 1000
_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}lib{os.sep}python", ".pyx")


def blame(error: BaseException) -> str:
    """Say what was raised and where in the user's code: `ValueError: no such model (worker.py:12 in load)`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({_shown(error.filename)}:{error.lineno})"
    text = f"{type(error).__name__}: {first_line(error)}{_advice(error)}"
    frames = list(_user_frames(error))
    if not frames:
        return text
    last = frames[-1]
    place = "" if last.name == "<module>" else f" in {last.name}"
    return f"{text} ({_shown(last.filename)}:{last.lineno}{place})"


def user_traceback(error: BaseException) -> str:
    """Return the traceback from the first frame of the user's code on, without the frames of this package."""
    first = next(_user_frames(error), None)
    frames = list(itertools.dropwhile(lambda frame: frame != first, _user_frames(error, libraries=True)))
    where = ["Traceback (most recent call last):\n", *traceback.StackSummary.from_list(frames).format()]
    return "".join([*(where if frames else []), *traceback.format_exception_only(error)])


def _advice(error: BaseException) -> str:
    """What to do about a fault that says too little by itself."""
    if isinstance(error, KeyError):
        frames = traceback.extract_tb(error.__traceback__)
        if frames and frames[-1].filename in _OS_FILES and frames[-1].name == "__getitem__":
            return " is not set in the environment; set it, or give it to the service with ServiceArgs.envs"
    return ""


def first_line(error: BaseException) -> str:
    """Return what an error says, as far as a line goes. It never fails."""
    try:
        message = str(error)
    except Exception as broken:  # whatever somebody's __str__ raises
        message = f"(its text cannot be had: {type(broken).__name__})"
    lines = message.splitlines()
    return lines[0][:_LINE_CHARS_MAX] if lines else "(no message)"


def _user_frames(error: BaseException, libraries: bool = False) -> Iterator[traceback.FrameSummary]:
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith((*_OURS, "<frozen")):
            continue
        if libraries or not any(part in frame.filename for part in _LIBRARIES):
            yield frame


def _shown(filename: str) -> str:
    relative = os.path.relpath(filename)
    return filename if relative.startswith("..") else relative
