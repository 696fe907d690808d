"""Logging as `DYN_LOG` and `DYN_LOGGING_JSONL` say, for scripts of one's own; commands of ours do it by themselves."""

from __future__ import annotations

import logging
import os

from dynamo.runtime._logging import set_up_logging

__all__ = ["configure_dynamo_logging"]


def configure_dynamo_logging(service_name: str | None = None, worker_id: int | None = None) -> None:
    """Log to stderr as the variables say, unless this process logs already, as every worker does.

    The arguments are those of earlier releases: `dynamo serve` puts the service and the worker before each
    line. Raises `ConfigError` if a variable is wrong.
    """
    if not logging.getLogger().hasHandlers():
        set_up_logging(os.environ)
