"""The tiny model that tests share: made once per checkout, below `.cache`, by the example's script.

Several test processes may ask at once: one makes it while the others wait. It is made anew when the script
that makes it has changed. Each version of the transformers package has its own, since it writes other files.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MAKER = REPOSITORY / "examples" / "llm" / "make_tiny_model.py"
CACHE = REPOSITORY / ".cache"
MAKE_TIMEOUT_S = 120


def tiny_model_path() -> Path:
    """Return the folder of the tiny model; make it first if need be."""
    folder = CACHE / f"transformers-{metadata.version('transformers')}"
    model, version = folder / "tiny-model", folder / "tiny-model.version"
    wanted = hashlib.sha256(MAKER.read_bytes()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tiny-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (version.exists() and version.read_text() == wanted):
            version.unlink(missing_ok=True)
            shutil.rmtree(model, ignore_errors=True)
            make_tiny_model(model)
            version.write_text(wanted)
    return model


def make_tiny_model(out: Path, *options: str) -> str:
    """Run the script as a user would; return what it printed."""
    command = [sys.executable, str(MAKER), str(out), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=MAKE_TIMEOUT_S)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout
