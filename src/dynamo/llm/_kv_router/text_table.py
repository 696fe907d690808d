"""Rows of words as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. Its last column is a sentence and begins where it begins; numbers end in line."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings) - 1)]
    return [_line(row, widths) for row in (headings, *rows)]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True))]
    return "  ".join([*cells, row[-1]]).rstrip()
