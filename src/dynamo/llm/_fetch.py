"""Finding a model's files: in a directory, or on the Hugging Face hub by the model's name."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from dynamo._core.errors import ConfigError, NotFound

#: `owner/model`
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}")
#: Files that describe a model: never code, and never weights that are pickled.
_DESCRIPTION = ["*.json", "*.jinja", "*.txt", "*.model"]
_WEIGHTS = ["*.safetensors"]


async def fetch_llm(name: str, ignore_weights: bool = False) -> Path:
    """Return the directory of a model; what is not here yet is downloaded from the hub.

    Raises `NotFound` for a directory that does not exist, and `ConfigError` if the hub does not have the
    model, or cannot be reached and the model is not in its cache.
    """
    return await asyncio.to_thread(find_model, name, ignore_weights)


def find_model(name: str, ignore_weights: bool = False) -> Path:
    """Do what `fetch_llm` does; blocks."""
    directory = _expanded(name)
    if directory.is_dir():
        return directory
    if not _HUB_NAME.fullmatch(name):
        raise NotFound(f"there is no model directory at {name!r}", model_path=name)
    from huggingface_hub import snapshot_download

    patterns = _DESCRIPTION if ignore_weights else _DESCRIPTION + _WEIGHTS
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{name!r} is not a directory, and could not be fetched from the hub: {reason}", model_path=name
        ) from error


def default_model_name(model_path: str) -> str:
    """Return what a model is called that nobody named: as its folder, or as on the hub."""
    directory = _expanded(model_path)
    return directory.resolve().name if directory.is_dir() else model_path


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # ~somebody, who is not a user here
        raise NotFound(f"there is no model directory at {name!r}: {error}", model_path=name) from error
