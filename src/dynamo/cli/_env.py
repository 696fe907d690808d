"""`dynamo env`: what a bug report needs to know about this machine, and nothing that must stay secret.

Everything is looked up here and now: nothing is asked of a network, and a tool that is not there is N/A.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

DISTRIBUTION = "dynamo-serve"
#: Extras that nothing of ours needs to run.
_TOOLS = ("test", "dev")
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader")
NVIDIA_SMI_TIMEOUT_S = 5.0

#: Variables that decide how the system runs, by the beginning of their names and by their names.
_PREFIXES = ("DYN_", "DYNAMO_", "ETCD_AUTH_", "NATS_AUTH_", "NATS_TLS_")
_NAMES = ("CUDA_VISIBLE_DEVICES", "ETCD_ENDPOINTS", "HF_HOME", "HF_HUB_OFFLINE", "NATS_SERVER")
_HIDDEN = "***"
_SECRET = r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH_USER"
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
#: Greedy up to the last @, because a password may contain what a URL may not.
_USER_INFO = re.compile(r"(?<=://)\S*@")
_SECRET_PARAMETER = re.compile(rf"([?&;][^=&;\s]*(?:{_SECRET})[^=&;\s]*=)[^&;\s]*", re.IGNORECASE)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")

KIB_PER_GIB = 1 << 20


@dataclass(frozen=True)
class Section:
    """A block of the report. A value of None is shown as `absent`."""

    key: str
    title: str
    values: Mapping[str, str | None]
    absent: str = "N/A"

    def lines(self) -> Iterator[str]:
        """The block as text."""
        yield self.title
        for name, value in self.values.items():
            yield f"  {name}: {self.absent if value is None else value}"


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Show what a bug report needs: the system, Python, packages, GPUs and the settings in force.

    Values of variables that look secret are shown as `***`, as are users and passwords in URLs; values that
    are whole documents are left out. Look through the rest before you publish it. What is said of variables is which
    of them are not stable, and which nothing reads.
    """
    report = sections(os.environ)
    if as_json:
        typer.echo(json.dumps({section.key: dict(section.values) for section in report}, indent=2))
    else:
        typer.echo("\n\n".join("\n".join(section.lines()) for section in report if section.values))


def sections(environ: Mapping[str, str]) -> list[Section]:
    """Return the whole report."""
    from importlib.metadata import requires  # slow to import

    return [
        Section("system", "System", _system()),
        Section("python", "Python", _python()),
        Section("packages", "Packages", packages(requires(DISTRIBUTION) or ()), "Not installed"),
        Section("gpus", "GPUs", gpus(_NVIDIA_SMI)),
        Section("planes", "Planes in force", _planes(environ)),
        Section("variables", "Variables", variables(environ)),
        Section("remarks", "Of these variables", _remarks(environ)),
    ]


def _system() -> dict[str, str | None]:
    library, library_version = platform.libc_ver()
    return {
        "OS": _os_name(),
        "Kernel": f"{platform.system()} {platform.release()}",
        "C library": f"{library} {library_version}" if library else None,
        "Architecture": platform.machine() or None,
        "CPU": _first_field("/proc/cpuinfo", "model name") or platform.processor() or None,
        "CPU cores": _cores(),
        "Memory": _memory(),
    }


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


def _cores() -> str:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return str(total) if usable == total else f"{total}, {usable} of them usable by this process"


def _memory() -> str | None:
    total, available = (_first_field("/proc/meminfo", name) for name in ("MemTotal", "MemAvailable"))
    if total is None or available is None:
        return None
    return f"{_gib(total)}, {_gib(available)} of it available"


def _gib(kib: str) -> str:
    return f"{int(kib.removesuffix(' kB')) / KIB_PER_GIB:.1f} GiB"


def _first_field(path: str, name: str) -> str | None:
    """Return what the first line `name: value` of a file of the kernel says; None where there is none."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)


def _python() -> dict[str, str | None]:
    return {
        "Version": platform.python_version(),
        "Implementation": platform.python_implementation(),
        "Executable": sys.executable or None,
    }


def packages(requirements: Iterable[str]) -> dict[str, str | None]:
    """Return the version of ours, and of each package that these requirements name; None: not installed."""
    found = {DISTRIBUTION: _version(DISTRIBUTION)}
    for requirement in requirements:
        extra = _EXTRA.search(requirement)
        name = _REQUIREMENT.match(requirement)
        if name is None or (extra is not None and extra[1] in _TOOLS):
            continue
        found.setdefault(name[0], _version(name[0]))
    return found


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def gpus(command: tuple[str, ...]) -> dict[str, str | None]:
    """Return what each GPU is, by its index, as `command` says it."""
    tool = command[0]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=NVIDIA_SMI_TIMEOUT_S
        )
    except FileNotFoundError:
        return {tool: None}
    except subprocess.TimeoutExpired:
        return {tool: f"did not answer within {NVIDIA_SMI_TIMEOUT_S:g} s"}
    except OSError as error:
        return {tool: f"cannot be run: {error.strerror}"}
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return {tool: f"failed with status {done.returncode}: {said[0] if said else 'it said nothing'}"}
    lines = (line.partition(", ") for line in done.stdout.splitlines() if line.strip())
    return {index: what for index, _, what in lines} or {tool: "found no GPU"}


def _planes(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Where processes that are started now would look for each other, and how they would talk."""
    from dynamo._core.discovery import discovery_url_from_env
    from dynamo._core.event_plane import event_plane_url_from_env
    from dynamo._core.work_queue import work_queue_url_from_env

    return {
        "Discovery": _in_force(discovery_url_from_env, environ),
        "Request plane": _masked(environ.get("DYN_REQUEST_PLANE") or "tcp:"),
        "Event plane": _in_force(event_plane_url_from_env, environ),
        "Work queue": _in_force(work_queue_url_from_env, environ),
    }


def _in_force(url_from_env: Callable[[Mapping[str, str]], str], environ: Mapping[str, str]) -> str:
    from dynamo._core.errors import ConfigError

    try:
        return _masked(url_from_env(environ))
    except ConfigError as error:
        return f"error: {_masked(error.message)}"


def _remarks(environ: Mapping[str, str]) -> dict[str, str | None]:
    from dynamo.cli._options import remarks  # what it asks takes a second to import

    return dict(remarks(sorted(environ)))


def variables(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that decide how the system runs, without their secrets."""
    return {
        name: shown(name, value)
        for name, value in sorted(environ.items())
        if name.startswith(_PREFIXES) or name in _NAMES
    }


def shown(name: str, value: str) -> str:
    """Return what of a variable may be seen by whoever reads a bug report."""
    if _SECRET_NAME.search(name):
        return _HIDDEN
    if not value.isprintable() or value.lstrip()[:1] in ("{", "["):
        return f"({len(value)} characters, not shown)"
    return _masked(value)


def _masked(text: str) -> str:
    return _SECRET_PARAMETER.sub(rf"\1{_HIDDEN}", _USER_INFO.sub(f"{_HIDDEN}@", text))
