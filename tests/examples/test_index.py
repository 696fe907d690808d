"""The index of the examples, and that each example is complete."""

from __future__ import annotations

import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir() and folder.name[0] not in "._")


def test_the_index_has_one_line_for_each_example() -> None:
    lines = re.findall(r"^- \[(\w+)\]\((\w+)\): .+\.$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(lines) == [(name, name) for name in NAMES]


def test_each_example_has_a_readme_and_a_test() -> None:
    for name in NAMES:
        assert (EXAMPLES / name / "README.md").is_file()
        assert (Path(__file__).parent / f"test_{name}.py").is_file()
