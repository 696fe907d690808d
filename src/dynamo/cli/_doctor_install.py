"""Is what is needed installed, and can it be imported?"""

from __future__ import annotations

import asyncio
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import requires

from dynamo.cli._doctor_finding import Finding, fail, ok, warn
from dynamo.cli._env import DISTRIBUTION, packages

PYTHON_MIN = (3, 11)
#: So long may an extra take to be imported: torch takes some seconds, and more on a busy machine.
IMPORT_TIMEOUT_S = 60.0

_EXTRA = re.compile(r"^\s*([A-Za-z0-9._-]+)[^;]*;.*\bextra\s*==\s*['\"]([^'\"]+)['\"]")
#: Extras for those who work on this, and not with it.
_TOOLS = ("test", "dev")
#: What is imported otherwise than it is installed.
_MODULES = {"nats-py": "nats"}


async def check_packages() -> list[Finding]:
    """Look at Python, and at what every installation has."""
    python, ours = platform.python_version(), f"{DISTRIBUTION} is installed for another one"
    if sys.version_info < PYTHON_MIN:
        needed = ".".join(map(str, PYTHON_MIN))
        return [fail("python", f"this is Python {python}, and {needed} is needed", ours)]
    required = [one for one in requires(DISTRIBUTION) or () if "extra ==" not in one]
    found = packages(required)
    missing = [name for name, version in found.items() if version is None and not _is_for_others(name, required)]
    if missing:
        what = f"Python {python} lacks {', '.join(missing)}"
        return [fail("python", what, f"install it: pip install --upgrade {DISTRIBUTION}")]
    return [ok("python", f"Python {python}, {DISTRIBUTION} {found[DISTRIBUTION]}")]


async def check_extras() -> list[Finding]:
    """Import what belongs to each extra that is installed, each in a process of its own."""
    extras = packages_of_extras(requires(DISTRIBUTION) or ())
    return list(await asyncio.gather(*(_check_extra(name, names) for name, names in extras.items())))


def packages_of_extras(requirements: Iterable[str]) -> dict[str, list[str]]:
    """Return the packages of each extra that is for users."""
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        match = _EXTRA.match(requirement)
        if match is not None and match[2] not in _TOOLS:
            extras.setdefault(match[2], []).append(match[1])
    return extras


def _is_for_others(name: str, requirements: Iterable[str]) -> bool:
    """Whether a package is not for this platform, perhaps; which platforms it is for is not worth a parser."""
    return any(one.startswith(name) and ";" in one for one in requirements)


async def _check_extra(extra: str, names: list[str]) -> Finding:
    check, install = f"extra {extra}", f"pip install '{DISTRIBUTION}[{extra}]'"
    found = packages(names)
    missing = [name for name in names if found[name] is None]
    if len(missing) == len(names):
        return ok(check, f"not installed; who needs it: {install}")
    if missing:
        return warn(check, f"{', '.join(missing)} is missing", f"complete it: {install}")
    problem = await import_problem([_MODULES.get(name, name) for name in names])
    versions = ", ".join(f"{name} {found[name]}" for name in names)
    return fail(check, f"{versions}: {problem}", f"install it anew: {install}") if problem else ok(check, versions)


async def import_problem(modules: list[str]) -> str:
    """Return why modules cannot be imported; empty if they can."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"import {', '.join(modules)}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(IMPORT_TIMEOUT_S):
            _, errors = await process.communicate()
    except TimeoutError:
        return f"not imported within {IMPORT_TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == 0:
        return ""
    said = errors.decode(errors="replace").strip().splitlines()
    return f"cannot be imported: {said[-1] if said else f'the process ended with {process.returncode}'}"
