"""What a process does when its work begins, and when it has failed."""

from __future__ import annotations

import gc
import sys

from dynamo._core.errors import DynamoError

#: Young objects between two collections, and how many of those between deeper ones.
GC_THRESHOLDS = (20_000, 50, 100)


def settle() -> None:
    """Spare the garbage collector what start-up has made: it lives as long as the process.

    Streams make many short-lived objects, and with the default thresholds a fifth of a busy server's
    time went into looking at modules and models again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def failed(error: DynamoError, status: int) -> int:
    """Say in one line what is wrong; return the exit status."""
    sys.stderr.write(f"error: {error}\n")
    return status
