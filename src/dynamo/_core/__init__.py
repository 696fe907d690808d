"""Mechanism: bytes, time, sockets and indexes. Nothing here is stable API.

This package knows no model and no HTTP. Everything public is built on it, in `dynamo.runtime`
and above; import from there.
"""

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo._core._log_message import log_message as log_message
else:  # at the place that others know; `dynamo.runtime.logging` has it, too
    __getattr__ = lazy_names(__name__, {"log_message": "._log_message"})
