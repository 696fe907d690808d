"""Every test that a page names as the proof of a promise exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(test_\w+)`")
_FILES = re.compile(r"`(tests/[\w/]+\.py)`")
_DEFINED = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def defined() -> set[str]:
    return {name for path in (ROOT / "tests").rglob("test_*.py") for name in _DEFINED.findall(path.read_text())}


@pytest.mark.parametrize("page", ["fault-tolerance.md", "kv-routing.md"])
def test_the_tests_that_a_page_names_exist(page: str, defined: set[str]) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert _NAMED.search(text)
    assert set(_NAMED.findall(text)) <= defined
    assert [file for file in _FILES.findall(text) if not (ROOT / file).exists()] == []
