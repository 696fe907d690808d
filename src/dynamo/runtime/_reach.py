"""Warnings at start of settings that fit one machine in a process of several, and of a NATS that is not there.

None of them is an error: etcd may be elsewhere and everybody who calls us here, and a NATS that is away may come. But
what comes of it otherwise is that somebody else waits, on another machine, and nothing says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from dynamo._core._lookup import HostAddress, Lookups
from dynamo._core._nats_url import nats_hosts, nats_setting
from dynamo._core._shown_url import without_password
from dynamo._core.loopback import is_loopback

logger = logging.getLogger(__name__)

#: So long may NATS take to be looked at: as long as a connection to it.
PROBE_TIMEOUT_S = 1.3


def warn_if_requests_stay_here(discovery: object, request_plane: object) -> None:
    """Warn a process that serves, and that others find in an etcd elsewhere, if they cannot call it."""
    elsewhere = _etcd_elsewhere(discovery)
    if elsewhere and _is_of_this_host(request_plane, "tcp"):
        logger.warning(
            "others find this process through the etcd at %s, and only those on this host can call it; if there are "
            "others, set DYN_REQUEST_PLANE=tcp://ADDRESS, one of this host's own",
            elsewhere,
        )


def warn_if_events_stay_here(discovery: object, event_plane: object) -> None:
    """Warn a process that uses events, and that others find in an etcd elsewhere, if they cannot hear it."""
    elsewhere = _etcd_elsewhere(discovery)
    if elsewhere and _is_of_this_host(event_plane, "zmq"):
        logger.warning(
            "others find this process through the etcd at %s, and only those on this host can hear its events; if "
            "there are others, set DYN_EVENT_PLANE=zmq://ADDRESS, one of this host's own, or NATS_SERVER, everywhere",
            elsewhere,
        )


def nats_that_is_set(planes: Mapping[str, object]) -> dict[str, str]:
    """The URLs of NATS among those of some planes, by what sets each, with what names each."""
    return {
        url: nats_setting(url, setting, os.environ)
        for setting, url in planes.items()
        if isinstance(url, str) and url.startswith(("nats:", "tls:"))
    }


async def warn_if_nats_is_away(urls: Mapping[str, str]) -> None:
    """Look whether NATS is there: who needs it connects later, and may be a handler by then."""
    for url, setting in urls.items():
        if problem := await _problem_with(url):
            logger.warning(
                "%s: NATS at %s cannot be reached now (%s); events and work queues fail until it can",
                setting,
                without_password(url),
                problem,
            )


async def _problem_with(url: str) -> str:
    """Why no server of a NATS takes a connection; empty if one does."""
    lookups, problem = Lookups(), "it names no server"
    for host, port in nats_hosts(url):
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                problem = await _refusal(await lookups.find(host), port)
        except OSError as error:  # TimeoutError is one
            problem = str(error) or f"no answer in {PROBE_TIMEOUT_S:g} s"
        if not problem:
            return ""
    return problem


async def _refusal(addresses: Sequence[HostAddress], port: int) -> str:
    """Why no address of a host takes a connection; empty if one does."""
    problem = "it has no address"
    for address in addresses:
        try:
            _, writer = await asyncio.open_connection(address.host, port)
        except OSError as error:
            problem = str(error)
            continue
        writer.close()
        return ""
    return problem


def _etcd_elsewhere(discovery: object) -> str:
    """The hosts of an etcd that is not on this machine; empty if it is, or there is none."""
    if not isinstance(discovery, str) or not discovery.startswith(("etcd://", "etcds://")):
        return ""
    hosts = discovery.partition("://")[2].partition("/")[0].rpartition("@")[2].split(",")
    names = [urlsplit(f"//{host.strip()}").hostname or "" for host in hosts]
    return "" if all(map(is_loopback, names)) else ", ".join(names)


def _is_of_this_host(plane: object, scheme: str) -> bool:
    """Whether a plane is of a kind that listens, and does so where this host alone reaches it."""
    if not isinstance(plane, str) or not plane.startswith(f"{scheme}:"):
        return False
    return is_loopback(urlsplit(plane).hostname or "127.0.0.1")
