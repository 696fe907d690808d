"""Writes what is public to `docs/api/unreleased.txt`, or checks it: `scripts/api --help`."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Settings of whoever runs this are no part of the API: what begins so is taken out of the environment.
_OURS = ("DYN", "ETCD_", "NATS_")
_DIFF_LINES_MAX = 200


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    given = _arguments(arguments)
    # After the environment is clean: some constants are taken from it.
    from scripts._api import rules
    from scripts._api.items import text_of
    from scripts._api.whole import whole_surface

    folder: Path = given.folder
    current = whole_surface(ROOT / "src")
    text, file = text_of(current), folder / rules.UNRELEASED
    releases, version = rules.released(folder), _version()
    changelog = Path(given.changelog).read_text()
    if given.release:
        (folder / f"{version[0]}.{version[1]}.txt").write_text(text)
    if given.missing:
        print("\n".join(rules.changelog_lines(current, releases, changelog)))
        return 0
    if not given.check:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return 0
    found = [*_differences(file, text), *rules.faults(current, releases, version, changelog)]
    sys.stderr.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/api", description="Write what is public to docs/api/unreleased.txt.")
    parser.add_argument("--check", action="store_true", help="write nothing: fail if it changed, or was not announced")
    parser.add_argument("--missing", action="store_true", help="print lines that CHANGELOG.md lacks")
    parser.add_argument("--release", action="store_true", help="keep it, too, as what this version has released")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "api", help="where the files are")
    parser.add_argument("--changelog", type=Path, default=ROOT / "CHANGELOG.md", help="the changelog")
    return parser.parse_args(arguments)


def _version() -> tuple[int, int]:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def _differences(file: Path, text: str) -> list[str]:
    """Return how the file differs, with what to do about it."""
    before = file.read_text().splitlines() if file.exists() else []
    lines = list(difflib.unified_diff(before, text.splitlines(), "was", "is", n=0, lineterm=""))
    lines = [line for line in lines if not line.startswith("@@")]
    if not lines:
        return []
    more = [f"... and {len(lines) - _DIFF_LINES_MAX} lines more"] if len(lines) > _DIFF_LINES_MAX else []
    what = f"what is public is not what {file.name} says: run scripts/api, and look at each line of the difference"
    return [what, *lines[:_DIFF_LINES_MAX], *more]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
