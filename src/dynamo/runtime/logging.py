"""Logging as `DYN_LOG` and `DYN_LOGGING_JSONL` say, for scripts of one's own; commands of ours do it by themselves."""

from __future__ import annotations

import logging
import os

from dynamo._core._log_message import log_message
from dynamo._core.stability import stable
from dynamo.runtime._arguments import check_type
from dynamo.runtime._logging import set_up_logging

__all__ = ["configure_dynamo_logging", "log_message"]


@stable(since="0.1")
def configure_dynamo_logging(service_name: str | None = None, worker_id: int | None = None) -> None:
    """Log to stderr as the variables say, unless this process logs already, as every worker does.

    `service_name` and `worker_id` are of earlier releases, and change nothing: `dynamo serve` puts the service and the
    worker before each line. Raises `ConfigError` if a variable is wrong.
    """
    check_type("service_name", service_name, (str, type(None)), "a str, or None")
    check_type("worker_id", worker_id, (int, type(None)), "a number, or None")
    if not logging.getLogger().hasHandlers():
        set_up_logging(os.environ)
