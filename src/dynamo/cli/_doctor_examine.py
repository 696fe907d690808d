"""The checks of `dynamo doctor`: what is looked at, in which order it is told, and how long it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

from dynamo.cli._doctor_discovery import Seen
from dynamo.cli._doctor_finding import Check, Finding, Level, run_check
from dynamo.cli._doctor_planes import check_planes
from dynamo.cli._doctor_workers import check_models, check_reach

#: Longer than a check waits for anything: what takes so long hangs where nobody expected it.
TIMEOUT_S = 75.0


async def examine(environ: Mapping[str, str], urls: Sequence[str], areas: Collection[str]) -> list[Finding]:
    """Look at these areas, at all of them at once; return what is found, in their order."""
    parts: list[tuple[set[str], Callable[[], Awaitable[list[Finding]]]]] = [
        ({"install"}, _install),
        ({"settings"}, lambda: _settings(environ)),
        ({"planes", "workers"}, lambda: _system(environ, areas)),
        ({"frontend"}, lambda: _frontends(urls)),
    ]
    found = await asyncio.gather(*(look() for of, look in parts if of & set(areas)))
    return [finding for each in found for finding in each]


async def _install() -> list[Finding]:
    from dynamo.cli._doctor_install import check_extras, check_packages

    return await _run([("python", check_packages), ("extras", check_extras)])


async def _settings(environ: Mapping[str, str]) -> list[Finding]:
    from dynamo.cli._doctor_settings import (
        check_credentials,
        check_frontend_settings,
        check_request_plane,
        check_system_server,
    )

    return await _run(
        [
            ("credentials", partial(check_credentials, environ)),
            ("request plane", partial(check_request_plane, environ)),
            ("frontend settings", partial(check_frontend_settings, environ)),
            ("system server", partial(check_system_server, environ)),
        ]
    )


async def _system(environ: Mapping[str, str], areas: Collection[str]) -> list[Finding]:
    """The planes, and with what discovery says, the workers."""
    seen: list[Seen] = []

    async def planes() -> list[Finding]:
        found, findings = await check_planes(environ)
        seen.extend([] if found is None else [found])
        return findings

    findings = await run_check("discovery", planes, TIMEOUT_S)
    if "planes" not in areas:  # but without discovery there are no workers to look at
        findings = [one for one in findings if one.check == "discovery" and one.level is not Level.OK]
    if seen and "workers" in areas:
        findings += await run_check("workers", partial(check_reach, seen[0], environ), TIMEOUT_S)
        findings += await run_check("models", partial(_models, seen[0]), TIMEOUT_S)
    return findings


async def _models(seen: Seen) -> list[Finding]:
    return check_models(seen)


async def _frontends(urls: Sequence[str]) -> list[Finding]:
    from dynamo.cli._doctor_frontend import check_default_frontend, check_frontend

    if not urls:
        return await _run([("frontend", check_default_frontend)])
    remedy = "start it, or say where it listens with --url"
    return await _run([("frontend", partial(check_frontend, url)) for url in urls], remedy)


async def _run(checks: Sequence[tuple[str, Check]], remedy: str = "") -> list[Finding]:
    found = await asyncio.gather(*(run_check(name, check, TIMEOUT_S, remedy) for name, check in checks))
    return [finding for each in found for finding in each]
