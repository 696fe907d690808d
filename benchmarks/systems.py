"""The two systems under test: which Python runs them, and how their processes find each other."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class System:
    """One implementation: a Python that can import its `dynamo` package, and its settings."""

    name: str
    python: str
    version: str

    def environment(self, meeting_place: Path) -> dict[str, str]:
        """Return the environment of its processes, which meet through files in `meeting_place`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DYN_")}
        if self.name != "ours":
            kept.pop("PYTHONPATH", None)  # a checkout on it would take the place of what is measured
        return kept | self._planes(meeting_place) | {"DYN_LOG": "error", "PYTHONUNBUFFERED": "1"}

    def _planes(self, meeting_place: Path) -> dict[str, str]:
        if self.name == "ours":
            return {"DYN_DISCOVERY": f"file://{meeting_place}", "DYN_REQUEST_PLANE": "tcp:"}
        return {
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(meeting_place),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
        }


def ours() -> System:
    return System("ours", sys.executable, _version(sys.executable, "dynamo-serve"))


def peer(python: Path) -> System:
    return System("peer", str(python), _version(str(python), "ai-dynamo-runtime"))


def _version(python: str, distribution: str) -> str:
    """Ask an interpreter which version of a distribution it has."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
