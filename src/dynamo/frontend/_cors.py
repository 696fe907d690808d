"""Which web pages may use the server from a browser: none, unless somebody names their origins.

A server on localhost is within reach of every page that a person opens; the browser keeps what it answers from
those whose origin the server does not name (CORS).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dynamo._core.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ALL = "*"
CORS_ORIGINS = "web pages that may use this server, by origin: https://HOST,http://HOST:PORT, or * for all"

#: As browsers write it. Those of applications have schemes of their own, such as `tauri://localhost`.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.\-]*://(?:[a-z0-9_.\-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
#: Browsers leave these ports out.
_IMPLIED = re.compile(r"http://.*:80|https://.*:443")


def read_origins(text: str | None) -> tuple[str, ...]:
    """Return the origins of an option. Raises `ConfigError` for one that no browser would send."""
    if not text:
        return ()
    origins = tuple(origin.strip() for origin in text.split(","))
    if origins == (ALL,):
        return origins
    for origin in origins:
        if not _ORIGIN.fullmatch(origin) or _IMPLIED.fullmatch(origin):
            raise ConfigError(
                f"--http-cors-origins (DYN_HTTP_CORS_ORIGINS): {origin!r} is no origin as browsers send it: write "
                "https://HOST or http://HOST:PORT, in lower case, without a path and without the scheme's own port, "
                "several with commas between them, or * alone for every page",
                setting="http_cors_origins",
            )
    return origins


def with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Return the application as pages of these origins may use it: itself if there are none."""
    if not origins:
        return app
    # Here, because the settings are read where no server is to be loaded, too.
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        # Whatever a client library sends; no cookies are read, so a page has nothing that its user did not give it.
        allow_headers=(ALL,),
        expose_headers=("x-request-id", "retry-after"),
    )
