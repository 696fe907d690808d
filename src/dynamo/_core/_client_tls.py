"""TLS to a server that is not ours, as etcd and NATS: whom to trust and who we are, in files that variables name.

Apart from `credentials`, which is about our own processes and the authority of the cluster.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from dynamo._core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TlsVariables:
    """The variables that name the files for one kind of server."""

    #: The server, for a message.
    server: str
    ca: str
    cert: str
    key: str

    def refuse_without_tls(self, environ: Mapping[str, str], instead: str) -> None:
        """Raise `ConfigError` if a file is named, though TLS is not asked for; `instead` says how to ask for it."""
        if given := self._given(environ):
            raise ConfigError(f"{given[0]} is set, but {instead}", setting=given[0])

    def context(self, environ: Mapping[str, str]) -> ssl.SSLContext:
        """Return how to ask the server for TLS. Raises `ConfigError`, which names the variables."""
        ca, cert, key = (environ.get(name) or None for name in (self.ca, self.cert, self.key))
        if key and not cert:
            raise ConfigError(f"{self.key} is set without {self.cert}", setting=self.cert)
        try:
            context = ssl.create_default_context(cafile=ca)
            if cert:
                context.load_cert_chain(cert, key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            given = self._given(environ)
            files = ", ".join(f"{name}={environ[name]}" for name in given)
            raise ConfigError(
                f"the TLS files for {self.server} cannot be used ({files}): {error}",
                setting=(given or [self.ca])[0],
            ) from error
        return context

    def _given(self, environ: Mapping[str, str]) -> list[str]:
        return [name for name in (self.ca, self.cert, self.key) if environ.get(name)]


def _no_passphrase() -> str:
    """Instead of OpenSSL, which would ask for one at the terminal and wait."""
    raise ValueError("the key is encrypted; store it without a passphrase")
