"""Ctrl-C right after a command was typed: it ends as a signal ends any process, and shows nothing of its imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_S = 60.0

#: Python imports it before anything else: Ctrl-C comes when the command begins to import the module.
CTRL_C_AT_IMPORT = """
import os, signal, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
"""


def interrupted(folder: Path, module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that gets Ctrl-C while it imports the module."""
    (folder / "sitecustomize.py").write_text(CTRL_C_AT_IMPORT.format(module=module))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("module", ["msgspec", "dynamo.runtime"])
@pytest.mark.parametrize("command", ["echo", "frontend", "mocker", "router", "transformers", "vllm"])
def test_ctrl_c_while_a_command_imports_shows_no_traceback(tmp_path: Path, command: str, module: str) -> None:
    done = interrupted(tmp_path, module, "-m", f"dynamo.{command}", "--help")

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("module", ["typer", "dynamo.cli._app", "dynamo.sdk"])
def test_ctrl_c_while_dynamo_imports_shows_no_traceback(tmp_path: Path, module: str) -> None:
    done = interrupted(tmp_path, module, "-m", "dynamo.cli", "serve", "graph")

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
