"""A line of the file: one public name, with everything that its users rely on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_NOTES = "  # "
_DEPRECATED = "deprecated: "
_PARAMETERS = "deprecated parameters: "


@dataclass(frozen=True)
class Item:
    """A name, what it is, and what is promised of it."""

    name: str
    form: str
    #: The tier and the release since which it holds; empty for a member, which has that of its owner.
    promise: str = ""
    deprecated: str = ""
    #: Of something that is called: the parameters that only a deprecated form of it takes.
    parameters: tuple[str, ...] = ()

    @property
    def tier(self) -> str:
        return self.promise.partition(" ")[0]

    def line(self) -> str:
        """The item as it stands in the file."""
        parameters = _PARAMETERS + ", ".join(self.parameters) if self.parameters else ""
        why = _DEPRECATED + self.deprecated if self.deprecated else ""
        notes = [note for note in (self.promise, parameters, why) if note]
        return f"{self.name}: {self.form}" + (_NOTES + "; ".join(notes) if notes else "")

    @classmethod
    def parse(cls, line: str) -> Item:
        """Read a line."""
        said, _, notes = line.rpartition(_NOTES) if _NOTES in line else (line, "", "")
        name, _, form = said.partition(": ")
        before, _, deprecated = notes.partition(_DEPRECATED)
        promise, _, parameters = before.removesuffix("; ").partition(_PARAMETERS)
        return cls(name, form, promise.removesuffix("; "), deprecated, tuple(filter(None, parameters.split(", "))))


Surface = dict[str, Item]


def surface(items: Iterable[Item]) -> Surface:
    """Return items by their names, sorted."""
    found = {item.name: item for item in items}
    return {name: found[name] for name in sorted(found)}


def text_of(items: Surface) -> str:
    """The content of a file."""
    return "".join(f"{item.line()}\n" for item in items.values())


def read(path: Path) -> Surface:
    """Read a file; nothing is in one that is not there."""
    lines = path.read_text().splitlines() if path.exists() else []
    return surface(Item.parse(line) for line in lines)


def owners(name: str) -> Iterator[str]:
    """Yield what a name is in, from the inside: `a.B` and `a` for `a.B.c`; the command for an option."""
    while (cut := max(name.rfind("."), name.rfind(" "))) > 0:
        name = name[:cut]
        yield name


def tier_of(item: Item, items: Surface) -> str:
    """The tier of an item: its own, or that of what it is in."""
    for name in (item.name, *owners(item.name)):
        if (found := items.get(name)) is not None and found.tier:
            return found.tier
    return ""


def is_deprecated(name: str, items: Surface) -> bool:
    """Whether it, or what it is in, is said to go."""
    return any(one in items and items[one].deprecated for one in (name, *owners(name)))
