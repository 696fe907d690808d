"""The OpenAI-compatible HTTP frontend: `python -m dynamo.frontend`, or `Frontend` in a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo.frontend._service import Frontend

__all__ = ["Frontend"]


def __getattr__(name: str) -> object:
    # On first use: the command needs no SDK, and starts sooner without it.
    if name == "Frontend":
        from dynamo.frontend._service import Frontend

        return Frontend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
