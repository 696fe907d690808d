"""SECURITY.md names the test that shows each promise."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "SECURITY.md").read_text()))
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert sorted(named - set(re.findall(r"def (test_[a-z0-9_]+)\(", sources))) == []


def test_every_promise_names_a_test() -> None:
    _, _, rest = (ROOT / "SECURITY.md").read_text().partition("| Promise | Shown by |\n|---|---|\n")
    rows = rest.partition("\n\n")[0].splitlines()
    assert rows
    assert [row for row in rows if "`test_" not in row] == []
