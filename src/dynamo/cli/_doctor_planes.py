"""Can what processes say to each other travel: discovery, events and jobs?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from dynamo._core._nats_url import nats_setting
from dynamo._core._shown_url import without_password
from dynamo._core.discovery import Discovery, discovery_setting, discovery_url_from_env, open_discovery
from dynamo._core.errors import ConfigError, DynamoError
from dynamo._core.event_plane import event_plane_url_from_env, open_event_plane
from dynamo._core.work_queue import check_work_queue_url, work_queue_url_from_env
from dynamo.cli._doctor_directory import look_at_unused
from dynamo.cli._doctor_discovery import Seen, look_at_discovery
from dynamo.cli._doctor_finding import Finding, fail, ok, run_check, warn
from dynamo.runtime._event_plane_kinds import event_plane_kind_of

#: What must answer at once has so long.
TIMEOUT_S = 5.0

_QUEUE_REMEDY = "say where jobs are queued with DYN_WORK_QUEUE"


async def check_planes(environ: Mapping[str, str]) -> tuple[Seen | None, list[Finding]]:
    """Look at each plane. Returns what is registered, too; None if discovery does not say."""
    try:
        url = discovery_url_from_env(environ, make_directory=False)
        discovery = open_discovery(url, discovery_setting(environ))
    except DynamoError as error:
        return None, [fail("discovery", error.message), *await _check_queue_alone(environ)]
    try:
        return await _check_with(url, discovery, environ)
    finally:
        await discovery.close()


async def _check_with(url: str, discovery: Discovery, environ: Mapping[str, str]) -> tuple[Seen | None, list[Finding]]:
    seen, findings = await _look(url, discovery, environ)

    async def events() -> list[Finding]:
        return await check_events(discovery, seen, environ)

    async def queue() -> list[Finding]:
        return await check_queue(seen, environ)

    others = await asyncio.gather(
        run_check("events", events, TIMEOUT_S, "say how events travel with DYN_EVENT_PLANE"),
        run_check("work queue", queue, TIMEOUT_S, _QUEUE_REMEDY),
    )
    return seen, [*findings, *(finding for each in others for finding in each)]


async def _look(url: str, discovery: Discovery, environ: Mapping[str, str]) -> tuple[Seen | None, list[Finding]]:
    if url.startswith("memory:"):
        what = "memory: is within one process, and nothing of it is seen from here"
        return None, [warn("discovery", what, "set DYN_DISCOVERY to file:///some/dir or etcd://HOST:2379")]
    seen: list[Seen] = []

    async def look() -> list[Finding]:
        unused = look_at_unused(url, environ)
        found, findings = (Seen(url), [unused]) if unused else await look_at_discovery(url, discovery)
        seen.append(found)
        return findings

    findings = await run_check("discovery", look, TIMEOUT_S, "start it, or say where it is with DYN_DISCOVERY")
    return (seen[0], findings) if seen else (None, findings)


async def _check_queue_alone(environ: Mapping[str, str]) -> list[Finding]:
    async def queue() -> list[Finding]:
        return await check_queue(None, environ)

    return await run_check("work queue", queue, TIMEOUT_S, _QUEUE_REMEDY)


async def check_events(discovery: Discovery, seen: Seen | None, environ: Mapping[str, str]) -> list[Finding]:
    """Connect to the event plane, and see whether all use the same one."""
    url = event_plane_url_from_env(environ)
    await (await open_event_plane(_at_any_port(url), discovery, environ)).close()
    own = event_plane_kind_of(url)
    others = (seen.event_planes if seen is not None else set()) - {own}
    if own is not None and others:
        what = f"here events travel through {own}, and processes that run use {', '.join(sorted(others))}"
        return [fail("events", f"{what}: they do not hear each other", "set DYN_EVENT_PLANE alike everywhere")]
    if url.startswith("inproc:"):
        return [warn("events", "inproc: is for one process", "unset DYN_EVENT_PLANE")]
    return [ok("events", f"{without_password(url)} {'is connected' if own == 'nats' else 'needs no server'}")]


def _at_any_port(url: str) -> str:
    """Return the URL without the port that a process which runs may have."""
    parts = urlsplit(url)
    if parts.scheme != "zmq" or ":" not in parts.netloc.rpartition("]")[2]:
        return url
    return parts._replace(netloc=parts.netloc.rpartition(":")[0]).geturl()


async def check_queue(seen: Seen | None, environ: Mapping[str, str]) -> list[Finding]:
    """See whether jobs can be queued."""
    url = work_queue_url_from_env(environ)
    check_work_queue_url(url)
    if not url.startswith(("nats:", "tls:")):
        served = "" if seen is None else f", {seen.num_queues} now"
        return [ok("work queue", f"{url} is served by processes of ours{served}")]
    if await _has_jetstream(url, environ):
        return [ok("work queue", f"{without_password(url)} is connected, with JetStream")]
    what = f"NATS at {without_password(url)} has no JetStream that answers, and work queues fail"
    return [warn("work queue", what, "start it with JetStream (nats-server -js), if jobs are queued")]


async def _has_jetstream(url: str, environ: Mapping[str, str]) -> bool:
    setting = nats_setting(url, "DYN_WORK_QUEUE", environ)
    try:
        from nats.errors import Error

        from dynamo._core._nats import NatsConnection, NatsServers
    except ImportError as error:
        raise ConfigError(f"{setting}: NATS needs {error.name}: install dynamo-serve[nats]") from error
    connection = NatsConnection(NatsServers.from_url(url, setting, environ))
    await connection.open()
    try:
        await connection.client.jetstream().account_info()
    except Error:
        return False
    finally:
        await connection.close()
    return True
