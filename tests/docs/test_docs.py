"""The documentation is true: every block of every page is run in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.generate import PAGE, reference
from tests.docs.reader import Reader, blocks_of

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks_of((DOCS / page).read_text()))])
async def test_what_the_page_says_happens(page: str, tmp_path: Path) -> None:
    await Reader(tmp_path).follow((DOCS / page).read_text())


def test_the_reference_of_the_commands_is_what_the_code_says() -> None:
    assert PAGE.read_text() == reference(), "run `python docs/generate.py`"


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert set(_LINK.findall(index)) == set(PAGES) - {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = _LINK.findall((DOCS / page).read_text())
    missing = [link for link in links if "://" not in link and not ((DOCS / page).parent / link).exists()]
    assert missing == []
