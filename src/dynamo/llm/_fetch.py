"""Finding a model's files: in a directory, or on the Hugging Face hub by the model's name."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path

from dynamo._core.errors import ConfigError, NotFound
from dynamo._core.stability import stable
from dynamo.runtime._arguments import check_callable, check_type

#: `owner/model`, and perhaps a branch, a tag or a commit.
_HUB_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95})(?:@(?P<revision>[A-Za-z0-9][\w.\-/]{0,254}))?"
)
_REVISION = re.compile(r"[A-Za-z0-9][\w.\-/]{0,254}")

#: Told how many bytes are here, and how many there will be as far as is known.
OnProgress = Callable[[int, int], None]


@stable(since="0.1")
async def fetch_llm(
    name: str,
    ignore_weights: bool = False,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Return the directory of a model; what is not here yet is downloaded from the hub.

    `name` is a directory, or `owner/model` on the hub. A `revision`, which may also stand in the name after an `@`, is
    a branch, a tag or a commit: give a commit to get the same files for ever. What is downloaded goes to `cache_dir`,
    or where the hub's own tools keep it; a download that was cut off goes on where it stopped. Every file that comes
    is compared with the hash that the hub tells, and weights are checked for completeness. `on_progress` is called
    on the event loop with the bytes that are here and those expected; without it a terminal shows a bar. With
    `ignore_weights` only the files that describe the model are fetched.

    Raises `NotFound` for a directory that does not exist, and `ConfigError` if the hub does not have the model, cannot
    be reached (or must not be: `HF_HUB_OFFLINE`) and the model is not complete in the cache, or if what came is not
    what the hub says, and TypeError for arguments of other types. Cancelling it ends the download: as soon as the next
    bytes come, or the hub is given up.
    """
    check_type("ignore_weights", ignore_weights, bool, "True or False")
    check_type("cache_dir", cache_dir, (str, Path, type(None)), "a directory, or None")
    if on_progress is not None:
        check_callable("on_progress", on_progress, "a function of (done_bytes, total_bytes), or None")
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def tell(done_bytes: int, total_bytes: int) -> None:
        assert on_progress is not None
        if not stop.is_set():
            loop.call_soon_threadsafe(on_progress, done_bytes, total_bytes)

    try:
        return await asyncio.to_thread(
            find_model,
            name,
            ignore_weights,
            revision=revision,
            cache_dir=cache_dir,
            on_progress=None if on_progress is None else tell,
            stop=stop,
        )
    finally:
        stop.set()


#: As today's Dynamo calls it.
fetch_model = fetch_llm


def find_model(
    name: str,
    ignore_weights: bool = False,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Do what `fetch_llm` does; blocks, calls `on_progress` from other threads, and ends soon after `stop` is set."""
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} is of type {type(name).__name__}: give a directory, or owner/model on the hub")
    directory = _expanded(name)
    if name and directory.is_dir():
        if revision is not None:
            raise ConfigError(
                f"revision is {revision!r}, and {name!r} is a directory: only models on the hub have revisions",
                setting="revision",
            )
        return directory
    on_hub = _HUB_NAME.fullmatch(name)
    if on_hub is None:
        raise NotFound(f"there is no model directory at {name!r}", model_path=name)
    wanted = _revision(revision, on_hub["revision"])
    from dynamo.llm._hub import Download

    place = None if cache_dir is None else Path(cache_dir).expanduser()
    return Download(on_hub["name"], wanted, place, on_progress, stop or threading.Event()).run(ignore_weights)


def default_model_name(model_path: str) -> str:
    """Return what a model is called that nobody named: as its folder, or as on the hub."""
    directory = _expanded(model_path)
    if directory.is_dir():
        return directory.resolve().name
    on_hub = _HUB_NAME.fullmatch(model_path)
    return model_path if on_hub is None else on_hub["name"]


def _revision(given: str | None, named: str | None) -> str | None:
    """The revision that was given, or stands in the name."""
    if given is not None and (not isinstance(given, str) or not _REVISION.fullmatch(given)):
        raise ConfigError(f"revision is {given!r}: give a branch, a tag or a commit of the model", setting="revision")
    if given is not None and named is not None and given != named:
        raise ConfigError(f"revision is {given!r}, and the name says {named!r}: give one of them", setting="revision")
    return given or named


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # ~somebody, who is not a user here
        raise NotFound(f"there is no model directory at {name!r}: {error}", model_path=name) from error
