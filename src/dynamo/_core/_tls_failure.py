"""What went wrong with a handshake of TLS, in words of ours: OpenSSL's are for those who know it."""

from __future__ import annotations

import ssl

#: What a side sends that is not content with the other one's certificate, or with the lack of one.
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer asks for a certificate, and this process has none",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer knows nothing of the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not accept our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "our certificate is not for this side of a connection",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate",
    "UNSUPPORTED_PROTOCOL": "the peer speaks an older TLS than 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer speaks an older TLS than 1.3",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer does not speak TLS",
    "HTTPS_PROXY_REQUEST": "the peer does not speak TLS",
}


def told(error: ssl.SSLError) -> str:
    """Say why TLS failed, with the name that OpenSSL has for it."""
    name = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the peer is refused: {error.verify_message} ({name})"
    return f"{_ALERTS[name]} ({name})" if name in _ALERTS else name
