"""What the processes of one cluster prove themselves with: a shared token, and certificates of one authority.

Both come from the environment, because a command line is seen by everybody on the host:

- `DYN_CLUSTER_TOKEN`, or better `DYN_CLUSTER_TOKEN_FILE`: the secret that every process of the cluster knows.
- `DYN_TLS_CERT` and `DYN_TLS_KEY`: the certificate that this process shows, as it serves and as it calls.
- `DYN_TLS_CA`: the authority of the cluster. With it, whoever shows no certificate of this authority is refused
  in both directions.

Whoever guesses a token can try as often as he likes, offline, once he has seen one handshake: so a short one is
refused. A token is never shown: its `repr`, its `str` and what a log makes of it are stars.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from dynamo._core._own_certificate import check_own_certificate
from dynamo._core.errors import ConfigError
from dynamo._core.limits import TOKEN_BYTES_MAX, TOKEN_BYTES_MIN

TOKEN = "DYN_CLUSTER_TOKEN"
TOKEN_FILE = "DYN_CLUSTER_TOKEN_FILE"
TLS_CERT = "DYN_TLS_CERT"
TLS_KEY = "DYN_TLS_KEY"
TLS_CA = "DYN_TLS_CA"

C = TypeVar("C", bound=ssl.SSLContext)

# Whoever may read it besides its owner knows the secret, and whoever may write it chooses the secret. What root
# has put there may also be for a group: so do the volumes of Kubernetes hand a secret to one pod.
_FORBIDDEN = 0o077
_FORBIDDEN_OF_ROOT = 0o037


class Secret(bytes):
    """Bytes that do not show themselves."""

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


def cluster_token(environ: Mapping[str, str]) -> Secret | None:
    """Return the token of the cluster, or None if there is none.

    Raises `ConfigError`, which names the variable and never the token, for one that is too short, and for a file
    that others can read.
    """
    text, path = environ.get(TOKEN), environ.get(TOKEN_FILE)
    if text and path:
        raise ConfigError(f"{TOKEN} and {TOKEN_FILE} are both set; leave out one of them")
    if text:
        return _checked(TOKEN, os.fsencode(text))
    if path:
        return _checked(TOKEN_FILE, _read_private(TOKEN_FILE, path))
    return None


def _checked(setting: str, token: bytes) -> Secret:
    token = token.strip()
    if not TOKEN_BYTES_MIN <= len(token) <= TOKEN_BYTES_MAX:
        raise ConfigError(
            f"{setting} has a token of {len(token)} bytes, and {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} are needed; "
            "make one with: openssl rand -hex 32"
        )
    return Secret(token)


def _read_private(setting: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            _check_private(setting, path, os.fstat(file.fileno()))
            return file.read(TOKEN_BYTES_MAX + 3)  # a line end or two are not of the token
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read ({error.strerror})") from error


def _check_private(setting: str, path: str, status: os.stat_result) -> None:
    """Raise `ConfigError` if others than its owner and root may know or choose what is in a file."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{setting}: {path} is not a file")
    forbidden = _FORBIDDEN_OF_ROOT if status.st_uid == 0 else _FORBIDDEN
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & forbidden:
        raise ConfigError(f"{setting}: others can read or change {path}; it must be yours, and: chmod 600 {path}")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of TLS, of which some may be missing ("").

    Only TLS 1.3 is spoken: both ends are ours. With `ca`, a peer's certificate must be of that authority, whatever
    name is in it: an address comes from discovery and is an IP, and the authority is the cluster's own. Without
    `ca`, nobody who calls is asked for a certificate, and whoever serves must have one of an authority that this
    host trusts, for the very address that is called.
    """

    cert: str = ""
    key: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            given, missing = (TLS_CERT, TLS_KEY) if self.cert else (TLS_KEY, TLS_CERT)
            raise ConfigError(f"{given} is set and {missing} is not; a certificate and its key are needed together")

    @property
    def is_mutual(self) -> bool:
        """Whether whoever calls this process must prove who it is."""
        return bool(self.cert and self.ca)

    def server_context(self, kind: type[C] = ssl.SSLContext) -> C:  # type: ignore[assignment]
        """Return what a listening socket needs. Raises `ConfigError`."""
        if not self.cert:
            raise ConfigError(f"{TLS_CA} is set, so this process cannot serve without {TLS_CERT} and {TLS_KEY}")
        context = kind(ssl.PROTOCOL_TLS_SERVER)
        if self.ca:
            context.verify_mode = ssl.CERT_REQUIRED
        return self._load(context, as_server=True)

    def client_context(self) -> ssl.SSLContext:
        """Return what a calling socket needs. Raises `ConfigError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca:
            context.check_hostname = False
        else:
            context.load_default_certs()
        return self._load(context, as_server=False)

    def _load(self, context: C, *, as_server: bool) -> C:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        setting, path = TLS_CA, self.ca
        try:
            if self.ca:
                context.load_verify_locations(self.ca)
            setting, path = f"{TLS_CERT} and {TLS_KEY}", f"{self.cert} and {self.key}"
            if self.cert:
                _check_private(TLS_KEY, self.key, os.stat(self.key))
                # Nobody is there to be asked for the passphrase of a key.
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
                check_own_certificate(self.cert, self.key, as_server=as_server)
        except ssl.SSLCertVerificationError as error:
            side = "whoever calls" if as_server else "whoever is called"
            raise ConfigError(
                f"{TLS_CERT}: {self.cert} would be refused by {side}: {error.verify_message}; give this process a "
                "certificate that is valid today, for servers and for clients",
                setting=TLS_CERT,
            ) from error
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{setting}: {path} cannot be used ({error.strerror or error})") from error
        return context


def tls_files(environ: Mapping[str, str]) -> TlsFiles | None:
    """Return where the files of TLS are, or None if TLS is not wanted. Raises `ConfigError`."""
    cert, key, ca = (environ.get(name, "") for name in (TLS_CERT, TLS_KEY, TLS_CA))
    return TlsFiles(cert, key, ca) if cert or key or ca else None


@dataclass(frozen=True, slots=True)
class Credentials:
    """All that a process proves itself with, and asks of others."""

    token: Secret | None = None
    tls: TlsFiles | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Credentials:
        """Read the environment. Raises `ConfigError`, which names the variable."""
        return cls(cluster_token(environ), tls_files(environ))

    @property
    def ask_callers(self) -> bool:
        """Whether somebody who has none of them is refused."""
        return self.token is not None or (self.tls is not None and self.tls.is_mutual)
