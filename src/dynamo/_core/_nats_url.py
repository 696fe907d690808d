"""Which NATS is meant, by the environment.

Apart from `_nats`, so that a process without NATS needs not its client.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from dynamo._core._shown_url import without_password
from dynamo._core.errors import ConfigError

NATS_SERVER = "NATS_SERVER"
PORT = 4222
_DEFAULT = "nats://127.0.0.1:4222"


def nats_url_from_env(environ: Mapping[str, str]) -> str:
    """Return where NATS is: `NATS_SERVER`, with or without `nats://`, or on this host. Raises `ConfigError`."""
    server = environ.get(NATS_SERVER) or _DEFAULT
    url = server if "://" in server else f"nats://{server}"
    if not url.startswith(("nats://", "tls://")):
        raise ConfigError(
            f"{NATS_SERVER}={without_password(server)!r} does not say where NATS is: write nats://host:4222, or "
            "tls://host:4222",
            setting=NATS_SERVER,
        )
    return url


def nats_setting(url: str, variable: str, environ: Mapping[str, str]) -> str:
    """Return who said that NATS is at `url`: what an error has to name is what somebody has set."""
    is_named = environ.get(variable, "") in ("", "nats") and bool(environ.get(NATS_SERVER))
    return NATS_SERVER if is_named and url == nats_url_from_env(environ) else variable


def nats_hosts(url: str) -> list[tuple[str, int]]:
    """Return the hosts and ports in a URL of NATS; what is none is left out."""
    scheme, _, where = url.partition("://")
    hosts = []
    for host in where.rstrip("/").rpartition("@")[2].split(","):
        try:
            parts = urlsplit(f"//{host.strip().removeprefix(f'{scheme}://')}")
            if parts.hostname:
                hosts.append((parts.hostname, parts.port or PORT))
        except ValueError:  # whoever connects says what is wrong with it
            continue
    return hosts
