"""The options of `dynamo serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class LogFormat(StrEnum):
    """How everything is printed, the lines of the workers included."""

    text = "text"
    json = "json"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What the command line says."""

    graph: str
    config_file: str | None
    #: Each as `Service.key=value`.
    overrides: Sequence[str]
    port: int | None
    host: str | None
    insecure: bool
    working_dir: Path
    service_name: str | None
    #: Each as `NAME=dynamo://NAMESPACE/COMPONENT`.
    depends: Sequence[str]
    reload: bool
    restart: bool
    log_format: LogFormat
    verbose: bool
    dry_run: bool
