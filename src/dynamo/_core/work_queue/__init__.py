"""The work queue, opened by a URL: `embedded:`, which a process of ours serves, or `nats://HOST:4222`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dynamo._core._nats_url import nats_setting, nats_url_from_env
from dynamo._core._shown_url import without_password
from dynamo._core.discovery import Discovery, Lease
from dynamo._core.errors import ConfigError
from dynamo._core.request_plane import RequestPlane
from dynamo._core.work_queue.base import Job, ProvidedQueue, QueueLimits, WorkQueue

if TYPE_CHECKING:
    from dynamo._core.work_queue.nats import NatsWorkQueue

__all__ = [
    "Job",
    "ProvidedQueue",
    "QueueLimits",
    "WorkQueue",
    "check_work_queue_url",
    "open_work_queue",
    "provide_work_queue",
    "work_queue_url_from_env",
]

#: The variable that says it, unless an argument does.
SETTING = "DYN_WORK_QUEUE"
EMBEDDED = "embedded:"
_NATS = ("nats://", "tls://")


async def open_work_queue(
    url: str, name: str, plane: RequestPlane, discovery: Discovery, *, setting: str = SETTING
) -> WorkQueue:
    """Return the queue `name` at `url`, which has the limits of who provides it.

    An embedded one is found through `discovery` when it is used. One on NATS is made if it is not there. Raises
    `ConfigError`, about `setting`, for a URL that we don't know or whose package is missing, and `CannotConnect` if a
    server does not answer, in less than two seconds.
    """
    check_work_queue_url(url, setting)
    if url == EMBEDDED:
        from dynamo._core.work_queue.embedded import EmbeddedWorkQueue

        return EmbeddedWorkQueue(name, plane, discovery)
    return await _connect(url, name, None, setting)


async def provide_work_queue(
    url: str,
    name: str,
    plane: RequestPlane,
    discovery: Discovery,
    lease: Lease,
    limits: QueueLimits,
    *,
    setting: str = SETTING,
) -> ProvidedQueue:
    """Let others use the queue `name` at `url`, with these limits. Raises what `open_work_queue` raises.

    An embedded one is served by this process as long as `lease` lives; `DynamoError` if another one does already.
    """
    check_work_queue_url(url, setting)
    if url == EMBEDDED:
        from dynamo._core.work_queue.embedded import serve_work_queue

        return await serve_work_queue(name, plane, discovery, lease, limits)
    return await _connect(url, name, limits, setting)


async def _connect(url: str, name: str, limits: QueueLimits | None, setting: str) -> NatsWorkQueue:
    try:
        from dynamo._core.work_queue.nats import NatsWorkQueue
    except ImportError as error:
        raise ConfigError(
            f"{setting}={without_password(url)!r} needs {error.name}: install dynamo-serve[nats]"
        ) from error
    return await NatsWorkQueue.connect(url, name, limits, setting=nats_setting(url, setting, os.environ))


def check_work_queue_url(url: str, setting: str = SETTING) -> None:
    """Raise `ConfigError`, about `setting`, unless `url` names a kind of work queue that there is."""
    if url != EMBEDDED and not url.startswith(_NATS):
        raise ConfigError(
            f"{setting}={without_password(url)!r} names no known work queue; there are embedded: and nats://"
        )


def work_queue_url_from_env(environ: Mapping[str, str], given: str | None = None) -> str:
    """Return the URL that is given, or that the environment asks for; `embedded:`, which needs no server, otherwise.

    `DYN_WORK_QUEUE` says what is not given: a URL, or just `embedded` or `nats`. Where NATS is, `NATS_SERVER` may
    say, and if nothing else is said, that means to use it.
    """
    url = environ.get(SETTING) or ("nats" if environ.get("NATS_SERVER") else EMBEDDED)
    if given is not None:
        url = given
    if url == "nats":
        return nats_url_from_env(environ)
    return EMBEDDED if url == "embedded" else url
