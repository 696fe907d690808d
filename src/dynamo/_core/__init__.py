"""Mechanism: bytes, time, sockets and indexes. Nothing here is stable API.

This package knows no model and no HTTP. Everything public is built on it, in `dynamo.runtime`
and above; import from there.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo._core._log_message import log_message as log_message
else:

    def __getattr__(name: str) -> object:
        """`log_message`, at the place that others know; `dynamo.runtime.logging` has it, too."""
        if name != "log_message":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from dynamo._core._log_message import log_message

        return log_message
