"""Whether anybody can accept our certificate: it is shown to ourselves, before others refuse it.

The handshake is between two ends in memory. Of the certificate itself only what is wrong with it anywhere is found:
its time, and what it may be used for. Which authority others trust is theirs to say.
"""

from __future__ import annotations

import ssl

#: How often the two ends take turns, at most; three times are enough.
_TURNS_MAX = 8


def check_own_certificate(cert: str, key: str, *, as_server: bool) -> None:
    """Raise `ssl.SSLCertVerificationError` if no peer would accept it from a server, or from a client."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    judge, other = (client, server) if as_server else (server, client)
    judge.verify_mode, other.verify_mode = ssl.CERT_REQUIRED, ssl.CERT_NONE
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted, whoever signed it
    judge.load_verify_locations(cert)
    for end in (server, client):
        end.load_cert_chain(cert, key, password=lambda: "")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(_TURNS_MAX):
        for shaking in ends:
            try:
                shaking.do_handshake()
            except ssl.SSLWantReadError:
                continue
