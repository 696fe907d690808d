"""The published implementation, in a virtual environment of its own, made once.

Its full set of dependencies is not needed: the frontend, the simulated engine and the runtime run with
the few packages below. `ai-dynamo` is therefore installed without dependencies.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.systems import ROOT, System, peer

PEER_VERSION = "1.6.1"
_VENV = ROOT / ".venv-peer"
_PACKAGES = (
    f"ai-dynamo-runtime=={PEER_VERSION}",
    "packaging", "pyyaml", "msgspec", "prometheus-client", "pyzmq", "typing-extensions", "uvloop",
)  # fmt: skip
_WITHOUT_DEPENDENCIES = (f"ai-dynamo=={PEER_VERSION}",)


def installed_peer() -> System:
    """Return the peer, installed into `.venv-peer` if it is not there yet."""
    python = _VENV / "bin" / "python"
    done = _VENV / f"installed-{PEER_VERSION}"
    if not done.exists():
        _say(f"setting up {_VENV} with ai-dynamo {PEER_VERSION} (once; about 300 MB)")
        _run(sys.executable, "-m", "venv", "--clear", str(_VENV))
        _pip(python, *_PACKAGES)
        _pip(python, "--no-deps", *_WITHOUT_DEPENDENCIES)
        done.touch()
    return peer(python)


def _pip(python: Path, *arguments: str) -> None:
    _say("pip install " + " ".join(arguments))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(f"the peer could not be set up: `{' '.join(command)}` failed; leave --peer out to go without")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
