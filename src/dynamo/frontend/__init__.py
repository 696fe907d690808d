"""The OpenAI-compatible HTTP frontend: `python -m dynamo.frontend`, `Frontend` in a graph, `HttpService` in a program.

They are imported when they are asked for: the command needs no SDK, and starts sooner without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo.frontend._http_service import HttpService
    from dynamo.frontend._service import Frontend

__all__ = ["Frontend", "HttpService"]

#: Where each name is.
_LAZY = {"Frontend": "._service", "HttpService": "._http_service"}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    __getattr__ = lazy_names(__name__, _LAZY)
