"""Tells when the source or the configuration of a graph is edited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from watchfiles import Change, DefaultFilter, awatch

from dynamo._core.errors import ConfigError

#: Files whose edit may change what a graph does.
SUFFIXES = (".py", ".yaml", ".yml")

OnEdit = Callable[[list[str]], None]


async def follow_edits(folder: str, config_file: str | None, on_edit: OnEdit) -> None:
    """Call `on_edit` with the files of each edit below `folder`, and of the configuration wherever it is, for ever.

    Environments, caches and what editors write for themselves are passed over. Raises `ConfigError` where
    nothing can be watched.
    """
    watches = [_follow_sources(folder, on_edit)]
    if config_file is not None and os.path.commonpath([config_file, folder]) != folder:
        watches.append(_follow_file(config_file, on_edit))
    tasks = [asyncio.ensure_future(watch) for watch in watches]
    try:
        await asyncio.gather(*tasks)
    except OSError as error:
        raise ConfigError(f"--reload cannot watch {folder} for edits: {error}") from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Sources(DefaultFilter):
    """The files below a folder that are of interest. Where the folder itself lies says nothing about them."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(SUFFIXES) and super().__call__(change, _below(path, self._folder))


async def _follow_sources(folder: str, on_edit: OnEdit) -> None:
    async for changes in awatch(folder, watch_filter=Sources(folder)):
        on_edit(sorted(_below(path, folder) for _, path in changes))


async def _follow_file(file: str, on_edit: OnEdit) -> None:
    # An editor replaces the file, so it is its folder that can be watched.
    async for _ in awatch(os.path.dirname(file), watch_filter=lambda _, path: path == file, recursive=False):
        on_edit([file])


def _below(path: str, folder: str) -> str:
    return os.path.relpath(path, folder)
