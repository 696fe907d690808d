"""Finding stop strings in a text that comes in pieces.

Two things are true for any cutting into pieces: the stop string that is complete first ends the text (of
several that end at the same character, the longest), and no text waits longer than until it is known not to
begin a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes a text through up to the first stop string."""

    __slots__ = ("_held", "_include", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include_stop: bool = False) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self._stops = [(stop, stop[0]) for stop in stops]
        self._include = include_stop
        self._held = ""  # the end of the text, where a stop string may have begun
        #: The stop string that was found.
        self.matched: str | None = None

    def push(self, text: str, *, search: bool = True) -> str:
        """Return what may be shown now. Without `search`, no stop string that ends in `text` counts."""
        held = len(self._held)
        if held:
            text = self._held + text
        shown = len(text)
        matches: list[tuple[int, int, str]] | None = None
        for stop, first in self._stops:
            if first not in text:  # true nearly always, and fast to know
                continue
            if search and (start := text.find(stop, max(0, held - len(stop) + 1))) >= 0:
                matches = matches or []
                matches.append((start + len(stop), start, stop))
            elif matches is None:
                shown = min(shown, _partial_match(text, stop))
        if matches is not None:
            return self._stop(text, *min(matches))
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

    def _stop(self, text: str, end: int, start: int, stop: str) -> str:
        self._held = ""
        self.matched = stop
        return text[: end if self._include else start]


def _partial_match(text: str, stop: str) -> int:
    """Where the end of `text` may be the beginning of `stop`; the length of `text` if nowhere."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return start
        start = text.find(stop[0], start + 1)
    return len(text)
