"""The scripts, in a checkout of their own: what they say of themselves, and do before anything is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DEADLINE_S = 60.0

#: In place of the Python of `.venv`: it has pip, and shows what that would install, and from where.
SHOWS = """#!/bin/sh
if [ "$3" = --version ]; then exit; fi
echo "constraints: $PIP_CONSTRAINT"
echo "what: $*"
exit 7
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout, as far as the scripts need one, in a folder with a space in its name."""
    folder = tmp_path / "my code"
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts")
    for name in ("pyproject.toml", "constraints.txt", "constraints-vllm.txt"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def run(checkout: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script from another directory."""
    return subprocess.run(
        [checkout / "scripts" / script, *arguments],
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("script", ["check", "test", "test-vllm"])
def test_help_is_what_the_script_says_of_itself_and_installs_nothing(checkout: Path, script: str, option: str) -> None:
    before = sorted(checkout.iterdir())
    done = run(checkout, script, option)
    [first, *_] = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"# {first}\n" in (checkout / "scripts" / script).read_text()
    assert "set -euo" not in done.stdout
    assert sorted(checkout.iterdir()) == before


def test_the_checks_take_no_arguments(checkout: Path) -> None:
    done = run(checkout, "check", "src/dynamo/sdk")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "scripts/check takes no arguments: it looks at everything\n"


def test_a_space_in_the_path_is_none_in_what_pip_is_told_and_what_fails_says_what_it_needs(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(SHOWS)
    python.chmod(0o755)
    done = run(checkout, "sim", "--help")
    assert done.stdout.splitlines() == [
        "constraints: constraints.txt",
        "what: -m pip install --quiet --editable .[dev]",
    ]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("That needs a network, or an index in PIP_INDEX_URL")
    assert not list((checkout / ".venv").glob(".installed*"))
