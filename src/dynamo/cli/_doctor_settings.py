"""Do the settings in the environment make sense, and does what listens ask for credentials?"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from dynamo._core.credentials import TLS_CA, TLS_CERT, TLS_KEY, TOKEN, TOKEN_FILE, Credentials
from dynamo._core.loopback import is_loopback
from dynamo.cli._doctor_finding import Finding, fail, ok, warn

#: A port of this machine answers at once, or never.
CONNECT_TIMEOUT_S = 2.0


async def check_credentials(environ: Mapping[str, str]) -> list[Finding]:
    """Read the cluster's token and the files of TLS, as a process that starts would."""
    credentials = Credentials.from_environ(environ)
    found = []
    if credentials.token is not None:
        found.append(f"a token from {TOKEN_FILE if environ.get(TOKEN_FILE) else TOKEN}")
    if credentials.tls is not None:
        credentials.tls.client_context()
        if not credentials.tls.cert:
            remedy = f"set {TLS_CERT} and {TLS_KEY}, unless nothing is served from here"
            return [warn("credentials", f"{TLS_CA} is set, so a process without a certificate cannot serve", remedy)]
        credentials.tls.server_context(ssl.SSLContext)
        found.append("certificates for both ends" if credentials.tls.is_mutual else "a certificate for who serves")
    return [ok("credentials", ", ".join(found) or "none are set, and nobody is asked for any")]


async def check_request_plane(environ: Mapping[str, str]) -> list[Finding]:
    """See where a worker that starts would listen."""
    from dynamo._core.request_plane import open_request_plane

    url = environ.get("DYN_REQUEST_PLANE") or "tcp:"
    await open_request_plane(url, environ).close()
    host = urlsplit(url).hostname or "127.0.0.1"
    if url.startswith("inproc:"):
        return [warn("request plane", "inproc: is for one process", "unset DYN_REQUEST_PLANE")]
    if is_loopback(host):
        return [ok("request plane", f"{url} is called from this machine only")]
    if not Credentials.from_environ(environ).ask_callers:
        remedy = f"set {TOKEN}, or {TLS_CERT}, {TLS_KEY} and {TLS_CA}, unless you trust the whole network"
        return [warn("request plane", f"{url} is open: other machines can call the workers, and prove nothing", remedy)]
    return [ok("request plane", f"{url} is called by who has credentials")]


async def check_frontend_settings(environ: Mapping[str, str]) -> list[Finding]:
    """See where a frontend that starts would listen, and whether its options make sense."""
    from dynamo.frontend._config import FrontendConfig
    from dynamo.runtime._settings import read_settings

    settings = read_settings(FrontendConfig, [], environ, prog="", description="")
    settings.router_config()
    if not is_loopback(settings.http_host):
        return [_exposed("frontend settings", "frontend", settings.http_host, settings.insecure)]
    return [ok("frontend settings", f"it would listen on {settings.http_host}:{settings.http_port}")]


async def check_system_server(environ: Mapping[str, str]) -> list[Finding]:
    """See where the system server of a process that starts would listen, if it has one."""
    from dynamo.runtime._system import system_settings

    check, settings = "system server", system_settings(environ)
    if settings is None:
        return []
    if not is_loopback(settings.host):
        return [_exposed(check, check, settings.host, settings.insecure)]
    if settings.port and await is_listening(settings.host, settings.port):
        what = f"somebody listens on {settings.host}:{settings.port} already"
        remedy = "that is well if it is the only process; for several set DYN_SYSTEM_PORT=0, a free port for each"
        return [warn(check, what, remedy)]
    return [ok(check, f"it would listen on {settings.host}:{settings.port or '(a free port)'}")]


def _exposed(check: str, what: str, host: str, insecure: bool) -> Finding:
    reached = f"the {what} would listen on {host}, which other machines reach, and ask nobody for credentials"
    if insecure:
        return warn(check, reached, "put something before it that does, unless you trust the whole network")
    return fail(check, f"{reached}: it does not start", "listen on 127.0.0.1, or set DYN_INSECURE=1 if you trust them")


async def is_listening(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
