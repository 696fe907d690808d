"""The command line: `dynamo serve` and its kin."""

from dynamo.cli._app import main

__all__ = ["main"]
