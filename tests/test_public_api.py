"""What is public is what `docs/api/unreleased.txt` says, was announced, and has its tier: see `scripts/api`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def api(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts._api", *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_public_is_what_the_file_says_and_was_announced() -> None:
    done = api("--check")
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_file_is_the_same_whoever_writes_it(tmp_path: Path) -> None:
    assert api("--folder", str(tmp_path), PYTHONHASHSEED="1", DYNAMO_IMAGE="mine", DYN_HTTP_PORT="no").returncode == 0
    written = (tmp_path / "unreleased.txt").read_text()
    assert written == (ROOT / "docs" / "api" / "unreleased.txt").read_text()
    assert " at 0x" not in written


def test_a_change_that_nobody_wrote_down_is_shown_as_a_difference(tmp_path: Path) -> None:
    lines = (ROOT / "docs" / "api" / "unreleased.txt").read_text().splitlines(keepends=True)
    gone = next(line for line in lines if line.startswith("dynamo.llm.fetch_llm: "))
    kept = [line for line in lines if line != gone]
    (tmp_path / "unreleased.txt").write_text("".join([*kept, "dynamo.llm.zzz: def()  # stable 0.1\n"]))
    done = api("--check", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "run scripts/api" in done.stderr
    assert f"+{gone}" in done.stderr
    assert "-dynamo.llm.zzz: def()" in done.stderr


def test_a_stable_name_that_was_released_and_is_gone_is_a_fault(tmp_path: Path) -> None:
    assert api("--folder", str(tmp_path)).returncode == 0
    released = (tmp_path / "unreleased.txt").read_text() + "dynamo.llm.zzz: def()  # stable 0.1\n"
    (tmp_path / "0.0.txt").write_text(released)
    done = api("--check", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "dynamo.llm.zzz is gone: it is stable, and 0.0 did not deprecate it" in done.stderr


def test_what_a_release_has_is_kept_under_its_minor_version(tmp_path: Path) -> None:
    assert api("--release", "--folder", str(tmp_path)).returncode == 0
    kept = [path for path in tmp_path.iterdir() if path.name != "unreleased.txt"]
    assert [path.read_text() for path in kept] == [(tmp_path / "unreleased.txt").read_text()]
