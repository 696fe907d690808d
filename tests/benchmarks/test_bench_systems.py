"""The two systems that benchmarks compare, each by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.systems import System


@pytest.mark.parametrize(("name", "keeps"), [("ours", True), ("peer", False)])
def test_a_checkout_on_the_path_takes_the_place_of_ours_and_never_of_the_peers(
    name: str, keeps: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", "src")
    assert ("PYTHONPATH" in System(name, "python", "1").environment(tmp_path)) is keeps
