"""The console scripts, made for tests: the commands as a shell finds them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ENTRY_POINTS = {"dynamo": "dynamo.cli", "llmctl": "dynamo.cli._llmctl"}


def make_scripts(directory: Path) -> Path:
    """Write a script for each command, as an installer does, and one for Python; return the folder."""
    directory.mkdir()
    for name, module in ENTRY_POINTS.items():
        script = directory / name
        script.write_text(f"#!{sys.executable}\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n")
        script.chmod(0o755)
    # A link would not find the virtual environment that it leads to.
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return directory
