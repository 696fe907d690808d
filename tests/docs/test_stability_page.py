"""The page of the promise says of commands and variables what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dynamo._core.stability import stability_of
from dynamo.cli._app import app
from dynamo.cli._options import COMMANDS
from dynamo.runtime._variables import VARIABLES

PAGE = (Path(__file__).parents[2] / "docs" / "stability.md").read_text()
_ROW = re.compile(r"^\| `([^`|]+)` \| (.*) \|$", re.MULTILINE)


def rows(heading: str) -> list[tuple[str, ...]]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [(name, *rest.split(" | ")) for name, rest in _ROW.findall(section)]


def test_the_page_has_every_command_with_its_tier() -> None:
    found = [(f"dynamo {info.name}", stability_of(info.callback)) for info in app.registered_commands]
    commands = [(name, str(mark.tier)) for name, mark in found if mark is not None]
    commands += [(name, str(tier)) for name, (tier, _) in COMMANDS.items() if name.startswith("python")]
    assert rows("Commands") == commands


def test_the_page_has_every_variable_with_its_tier() -> None:
    table = [(one.name, f"{one.about[:1].upper()}{one.about[1:]}", str(one.tier)) for one in VARIABLES]
    assert rows("Variables that are no options") == table, f"it should be:\n{markdown(table)}"


def markdown(table: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| `{name}` | {' | '.join(rest)} |" for name, *rest in table)
