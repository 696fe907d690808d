"""How two processes find out that they may talk: which protocol each speaks, and that both know the token.

No sockets here. Each side begins with a hello. Where there is a token, it has a nonce in it, and the answer is an
HMAC under the token over both nonces and the role of whoever proves. The nonces are fresh, so an old proof is worth
nothing; the role is in it, so a proof cannot be sent back to whoever made it. Both sides have proved themselves
before a request is sent or taken, and all of it is over when the connection is made: requests pay nothing.

What it does not do: hide or protect what is said afterwards. That is what TLS is for.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Literal

from dynamo._core import wire
from dynamo._core.credentials import TOKEN, TOKEN_FILE
from dynamo._core.errors import IncompatibleVersion, ProtocolError, Unauthorized

NONCE_BYTES = 32
_PURPOSE = b"dynamo request plane 1"

Role = Literal["client", "server"]
_OTHER: dict[Role, Role] = {"client": "server", "server": "client"}


class Handshake:
    """One side of it. `done` says that the peer may be listened to."""

    __slots__ = ("_asked", "_nonce", "_role", "_token", "done", "hello")

    def __init__(self, role: Role, token: bytes | None) -> None:
        self._role = role
        self._token = token
        self._nonce = b"" if token is None else secrets.token_bytes(NONCE_BYTES)
        self._asked = b""  # the nonce of the peer, once it has said hello
        #: What to say first.
        self.hello = wire.Hello(nonce=self._nonce)
        self.done = False

    def take(self, message: wire.Message) -> wire.Proof | None:
        """Take what the peer says, and return what to answer.

        Raises `IncompatibleVersion`, `Unauthorized`, or `ProtocolError` for what is no part of a handshake.
        """
        if isinstance(message, wire.Hello) and not self._asked:
            return self._take_hello(message)
        if isinstance(message, wire.Proof) and self._asked:
            self._check(message)
            return None
        if not self._asked:
            raise ProtocolError("the peer did not say hello first")
        raise Unauthorized(
            f"the peer has not proved that it knows the token of the cluster; set {TOKEN} or {TOKEN_FILE} there"
        )

    def _take_hello(self, hello: wire.Hello) -> wire.Proof | None:
        if hello.major != wire.PROTOCOL_MAJOR:
            raise incompatible(hello.major, hello.minor)
        if self._token is None:
            # Who serves without a token takes everyone; who calls must not hand its requests to a stranger's cluster.
            if hello.nonce and self._role == "client":
                raise Unauthorized(
                    f"it asks for the token of the cluster, and this process has none; set {TOKEN} or {TOKEN_FILE}"
                )
            self.done = True
            return None
        if len(hello.nonce) != NONCE_BYTES:
            raise Unauthorized(
                "the peer has no token of a cluster, and this process asks for the one in "
                f"{TOKEN} or {TOKEN_FILE}; set it there, too"
            )
        self._asked = hello.nonce
        return wire.Proof(self._digest(self._role))

    def _check(self, proof: wire.Proof) -> None:
        if not hmac.compare_digest(proof.digest, self._digest(_OTHER[self._role])):
            raise Unauthorized(
                "the peer has another token of the cluster than this process; "
                f"{TOKEN} (or {TOKEN_FILE}) must be the same on both sides"
            )
        self.done = True

    def _digest(self, role: Role) -> bytes:
        """What `role` has to answer. All parts but the last have one length for each role."""
        assert self._token is not None
        nonces = (self._nonce, self._asked) if self._role == "client" else (self._asked, self._nonce)
        return hmac.digest(self._token, b"".join((_PURPOSE, role.encode(), *nonces)), "sha256")


def incompatible(major: int, minor: int | None = None) -> IncompatibleVersion:
    """The error of a peer that speaks another major version."""
    theirs = f"{major}" if minor is None else f"{major}.{minor}"
    ours = f"{wire.PROTOCOL_MAJOR}.{wire.PROTOCOL_MINOR}"
    return IncompatibleVersion(
        f"the peer speaks protocol {theirs} and this process speaks {ours}; run releases of one major version",
        peer_version=theirs,
        version=ours,
    )
