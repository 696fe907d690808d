"""The start of the `llmctl` command."""

from __future__ import annotations

from dynamo.cli._main import start


def main() -> None:
    """Run the command that the command line names."""
    start("dynamo.cli._llmctl_app")
