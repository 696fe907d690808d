"""A connection to NATS that comes back by itself: what the event plane and the work queue share.

`nats://user:password@h1:4222,h2:4222`; `tls://` speaks TLS. What must not stand in a URL has a variable:
NATS_AUTH_USERNAME and NATS_AUTH_PASSWORD, or NATS_AUTH_TOKEN, or NATS_AUTH_CREDENTIALS_FILE; and NATS_TLS_CA
(whom to trust), NATS_TLS_CERT and NATS_TLS_KEY (who we are), which are files.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client
from nats.errors import AuthorizationError, Error

from dynamo._core._client_tls import TlsVariables
from dynamo._core._nats_transport import LookingUp
from dynamo._core._nats_url import PORT
from dynamo._core._shown_url import without_password
from dynamo._core.errors import CannotConnect, ConfigError, DynamoError

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 1.3
RECONNECT_S = 0.25
#: How often it is tried again, at most, to let us in where we were thrown out.
REPLACE_S_MAX = 5.0
#: NATS that answers no ping for two of these is gone.
PING_S = 2.0
PINGS_OUTSTANDING_MAX = 2
CLOSE_TIMEOUT_S = 1.0
CLOSES_MAX = 3
# Of a server that says nothing, and of one that hangs up: it may not like our password, and say so the next time.
_MAY_BE_THERE = (TimeoutError, ConnectionResetError, BrokenPipeError)
_FORBIDDEN = "permissions violation"
_TLS = TlsVariables("NATS", "NATS_TLS_CA", "NATS_TLS_CERT", "NATS_TLS_KEY")


@dataclass(frozen=True, slots=True)
class NatsServers:
    """Where NATS is, and who we are to it."""

    setting: str
    urls: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials_file: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def from_url(cls, url: str, setting: str, environ: Mapping[str, str] = os.environ) -> NatsServers:
        """Read a URL; `setting` is what to name in errors."""
        scheme, _, where = url.partition("://")
        proof, _, hosts = where.rstrip("/").rpartition("@")
        if scheme not in ("nats", "tls") or not hosts:
            raise ConfigError(f"{setting} does not say where NATS is: write nats://host:4222, or tls://host:4222")
        if "@" in proof or "," in proof:
            raise ConfigError(
                f"{setting}: write the name and the password of NATS once, before the first server; an @ in a password "
                "is %40, and a comma is %2C",
                setting=setting,
            )
        user, password, token = _proof(setting, proof, environ)
        return cls(
            setting,
            # NATS's own clients take the scheme before each server, too.
            tuple(_server(setting, scheme, host.strip().removeprefix(f"{scheme}://")) for host in hosts.split(",")),
            user,
            password,
            token,
            _credentials_file(environ),
            _tls(setting, scheme, environ),
        )

    @property
    def names(self) -> str:
        return ", ".join(self.urls)

    async def connect(self, on_given_up: Callable[[], None]) -> Client:
        """Return a connection that is restored once it was made, until its client gives up.

        Raises `CannotConnect` if nobody answers, and `ConfigError` if NATS does not let us in.
        """
        client = Client()
        client._transport = LookingUp()
        link = _Link(self.names, len(self.urls), client, on_given_up)
        connecting = asyncio.create_task(self._connect(client, link))
        try:
            await asyncio.wait([connecting], timeout=CONNECT_TIMEOUT_S)
            if connecting.done() and not connecting.cancelled():
                connecting.result()
                link.is_made = True
                return client
        except (OSError, ValueError, Error) as error:
            link.last_error = error
        finally:
            if not link.is_made:
                link.is_given_up = True
                connecting.cancel()
                await asyncio.wait([connecting])
                await _close_client(client)
        if _is_refusal(link.last_error):
            raise ConfigError(
                f"{self.setting}: NATS at {self.names} does not accept our name, password or token; "
                "set NATS_AUTH_USERNAME and NATS_AUTH_PASSWORD, or NATS_AUTH_TOKEN",
                setting=self.setting,
            )
        reason = str(link.last_error or "") or f"no answer in {CONNECT_TIMEOUT_S:g} s"
        # Its last words are often lost with the connection.
        if isinstance(link.last_error, (ConnectionResetError, Error)):
            reason += "; if it wants a password or a token, set NATS_AUTH_PASSWORD or NATS_AUTH_TOKEN"
        raise CannotConnect(f"{self.setting}: cannot connect to NATS at {self.names}: {reason}", setting=self.setting)

    async def _connect(self, client: Client, link: _Link) -> None:
        await client.connect(
            list(self.urls),
            error_cb=link.note_error,
            disconnected_cb=link.note_loss,
            reconnected_cb=link.note_return,
            closed_cb=link.note_closed,
            name="dynamo",
            connect_timeout=1,
            reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # it says int, and sleeps so long
            max_reconnect_attempts=-1,
            ping_interval=PING_S,  # type: ignore[arg-type]
            max_outstanding_pings=PINGS_OUTSTANDING_MAX,
            # With a limit, it would hold up who publishes; without one, it refuses what it cannot send now.
            pending_size=0,
            user=self.user,
            password=self.password,
            token=self.token,
            user_credentials=self.credentials_file,
            tls=self.tls,
        )


class _Link:
    """What NATS's client tells of one connection."""

    def __init__(self, names: str, num_servers: int, client: Client, on_given_up: Callable[[], None]) -> None:
        self.names = names
        # How many servers have yet to refuse the first connection.
        self._num_left = num_servers
        self._client = client
        self._on_given_up = on_given_up
        self.is_made = False
        self.is_given_up = False
        self.last_error: Exception | None = None
        self._num_forbidden = 0

    async def note_error(self, error: Exception) -> None:
        logger.debug("NATS at %s: %r", self.names, error)
        if _FORBIDDEN in str(error):
            self._note_forbidden(error)
        if self.is_given_up:
            return  # what is heard while it is closed, as of a TLS alert that came late, is not the reason for it
        self.last_error = error
        if not self.is_made and (_is_refusal(error) or self._is_nobody_there(error)):
            raise error  # which ends the attempt to connect; it would go on for ever

    def _is_nobody_there(self, error: Exception) -> bool:
        """Whether each server is known by now not to be there, which takes no time."""
        if isinstance(error, OSError) and not isinstance(error, _MAY_BE_THERE):
            self._num_left -= 1
        return self._num_left <= 0

    def _note_forbidden(self, error: Exception) -> None:
        """Say that NATS does not carry what we ask it to: nobody else would hear of it."""
        self._num_forbidden += 1
        if self._num_forbidden.bit_count() == 1:
            logger.error(
                "NATS at %s has forbidden us something %d times so far, the last time so: %s; give its user the "
                "permission",
                self.names,
                self._num_forbidden,
                error,
            )

    async def note_loss(self) -> None:
        if self.is_made and not self._client.is_closed:
            logger.warning("the connection to NATS at %s is lost; trying to connect again", self.names)

    async def note_return(self) -> None:
        logger.warning("connected to NATS at %s again", self.names)

    async def note_closed(self) -> None:
        if self.is_made:
            self._on_given_up()


class NatsConnection:
    """A connection to NATS that is there for ever. Its client is another one when NATS has thrown us out.

    A client of NATS's comes back by itself when it loses its server, but not when the server tells it to go: for
    being slow, say. Then it is replaced here, and `on_replaced` is called.
    """

    def __init__(self, servers: NatsServers, on_replaced: Callable[[], None] = lambda: None) -> None:
        self._servers = servers
        self._on_replaced = on_replaced
        self._client: Client | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def client(self) -> Client:
        assert self._client is not None, "open() comes first"
        return self._client

    async def open(self) -> None:
        """Connect. Raises `CannotConnect` or `ConfigError`."""
        self._client = await self._servers.connect(self._replace)

    async def close(self) -> None:
        self._closed = True
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        if self._client is not None:
            await _close_client(self._client)

    def _replace(self) -> None:
        if not self._closed:
            self._replacing = asyncio.create_task(self._run())

    async def _run(self) -> None:
        delay_s = RECONNECT_S
        while True:
            try:
                await self.open()
            except DynamoError as error:
                logger.warning("NATS has ended our connection; trying again in %g s: %s", delay_s, error)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, REPLACE_S_MAX)
            else:
                logger.warning("connected to NATS at %s again, with a new connection", self._servers.names)
                self._on_replaced()
                return


def _is_refusal(error: Exception | None) -> bool:
    """Whether NATS does not want us. Its client has a class for that, and does not always use it."""
    return isinstance(error, AuthorizationError) or (isinstance(error, Error) and "authorization" in str(error).lower())


async def _close_client(client: Client) -> None:
    """Close a connection; one to a server that does not answer is given up.

    A client that is just connecting again may go on with that, and would hold up the end of the process.
    """
    for _ in range(CLOSES_MAX):
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await client.close()
        except TimeoutError:
            logger.warning("NATS did not take our last bytes within %g s; closed without", CLOSE_TIMEOUT_S)
        except OSError as error:
            logger.debug("the connection to NATS broke while it was closed: %r", error)
            if client._transport is not None:
                client._transport.close()  # type: ignore[no-untyped-call]
        connecting = client._reconnection_task
        if connecting is not None and not connecting.done():
            connecting.cancel()
            await asyncio.wait([connecting], timeout=CLOSE_TIMEOUT_S)
        if client.is_closed and (connecting is None or connecting.done()):
            return
    logger.error("the client of NATS does not end: a connection to it may stay open until the process ends")


def _proof(setting: str, proof: str, environ: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    """Return a name, its password and a token, of which some are None; a name alone in the URL is a token."""
    user, colon, password = (unquote(part) for part in proof.partition(":"))
    token = environ.get("NATS_AUTH_TOKEN") or None
    if user and not colon and not environ.get("NATS_AUTH_PASSWORD"):
        return None, None, user
    user = user or environ.get("NATS_AUTH_USERNAME", "")
    password = password or environ.get("NATS_AUTH_PASSWORD", "")
    if bool(user) != bool(password):
        given, missing = ("name", "PASSWORD") if user else ("password", "USERNAME")
        raise ConfigError(
            f"{setting}: there is a {given} for NATS only: set NATS_AUTH_{missing}", setting=f"NATS_AUTH_{missing}"
        )
    return user or None, password or None, token


def _credentials_file(environ: Mapping[str, str]) -> str | None:
    path = environ.get("NATS_AUTH_CREDENTIALS_FILE")
    if not path:
        return None
    try:
        importlib.import_module("nkeys")  # of which NATS's client has need only then
        with open(path, "rb"):
            return path
    except ImportError as error:
        raise ConfigError(
            "NATS_AUTH_CREDENTIALS_FILE needs nkeys: pip install 'nats-py[nkeys]'", setting="NATS_AUTH_CREDENTIALS_FILE"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"NATS_AUTH_CREDENTIALS_FILE: {path} cannot be read ({error.strerror})",
            setting="NATS_AUTH_CREDENTIALS_FILE",
        ) from error


def _tls(setting: str, scheme: str, environ: Mapping[str, str]) -> ssl.SSLContext | None:
    if scheme == "tls":
        return _TLS.context(environ)
    _TLS.refuse_without_tls(environ, f"{setting} begins with nats://, which is without TLS: write tls://")
    return None


def _server(setting: str, scheme: str, host: str) -> str:
    try:
        parts = urlsplit(f"{scheme}://{host}")
        name, port = parts.hostname, parts.port or PORT
    except ValueError:
        name, port = None, PORT
    if not name or parts.path or parts.query:
        raise ConfigError(
            f"{setting}: {without_password(host)!r} is no NATS; write nats://host:4222, several separated by commas, "
            "and a name and its password as name:password@ before the first",
            setting=setting,
        )
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"
