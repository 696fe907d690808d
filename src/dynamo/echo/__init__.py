"""A worker without a model: it says the prompt back. For trying a deployment out, and for measuring one.

`EchoWorker` is imported when it is asked for: it brings the SDK, which the engine does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo.echo._engine import EchoEngine

if TYPE_CHECKING:
    from dynamo.echo._service import EchoWorker

__all__ = ["EchoEngine", "EchoWorker"]

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        if name == "EchoWorker":
            from dynamo.echo._service import EchoWorker

            return EchoWorker
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
