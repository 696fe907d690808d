"""The command line: `dynamo serve` and its kin."""

from dynamo.cli._main import main

__all__ = ["main"]
