"""The example that makes a tiny model, run as a user runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.tiny_model import make_tiny_model


@pytest.mark.timeout(240)
def test_the_same_options_make_the_same_files_and_it_says_what_it_made(tiny_model: Path, tmp_path: Path) -> None:
    printed = make_tiny_model(tmp_path)
    assert printed.startswith(f"{tmp_path}: a Llama of 278,848 random bf16 parameters, 2 layers, 2048 tokens")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in tiny_model.iterdir()
    }


@pytest.mark.timeout(240)
def test_a_model_made_before_is_made_anew_with_other_options(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    assert "3 layers, 512 tokens" in make_tiny_model(tmp_path, "--layers", "3", "--vocab", "512", "--seed", "7")


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RuntimeError, match="is not empty and was not made by this script"):
        make_tiny_model(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
