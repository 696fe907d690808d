"""Everything that is public, from the code itself."""

from __future__ import annotations

from pathlib import Path

from scripts._api.items import Surface, surface
from scripts._api.names import name_items, named
from scripts._api.others import other_items


def whole_surface(source: Path) -> Surface:
    """Return what is public of the package in this folder."""
    return surface([*name_items(named(source)), *other_items()])
