"""The error of who has asked for something that cannot be."""

from __future__ import annotations

from dynamo._core.errors import ConfigError


class WrongUsage(ConfigError):
    """What was asked for cannot be, and nothing has been done; the message says what would be right."""
