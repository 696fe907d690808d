"""Downloading a model from the Hugging Face hub, into the cache that all of the hub's tools share.

`huggingface_hub` does the transfers, several at a time, and goes on where one was cut off. What it leaves to be done
is here: it checks sizes only, returns a folder that lacks files when it cannot reach the hub, and speaks of HTTP.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamo._core.errors import Cancelled, ConfigError
from dynamo._core.shown import cut
from dynamo.llm._model_integrity import check_hash, check_weights

log = logging.getLogger(__name__)

#: Files that describe a model: never code, and never weights that are pickled.
_DESCRIPTION = ["*.json", "*.jinja", "*.txt", "*.model"]
_WEIGHTS = ["*.safetensors"]
#: The bar that counts the bytes on disk, among those of a download.
_BYTES_BAR = "huggingface_hub.snapshot_download"
#: So much of an error of others is passed on.
_REASON_CHARS_MAX = 300


class Download:
    """One model at one revision; None is the main branch."""

    def __init__(
        self,
        name: str,
        revision: str | None,
        cache_dir: Path | None,
        on_progress: Callable[[int, int], None] | None,
        stop: threading.Event,
    ) -> None:
        from huggingface_hub import constants

        self._name = name
        self._revision = revision
        self._cache = cache_dir or Path(constants.HF_HUB_CACHE)
        self._on_progress = on_progress
        self._stop = stop
        self._is_offline: bool = constants.HF_HUB_OFFLINE
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        self._answer_s: float = constants.HF_HUB_ETAG_TIMEOUT
        self._is_silent = False

    def run(self, ignore_weights: bool) -> Path:
        """Download what is missing, check what came, and return the directory. Raises `ConfigError`."""
        blobs = self._cache / f"models--{self._name.replace('/', '--')}" / "blobs"
        known = {path.name for path in blobs.iterdir()} if blobs.is_dir() else set()
        directory = self._download(_DESCRIPTION if ignore_weights else _DESCRIPTION + _WEIGHTS)
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.resolve().name not in known:
                self._check_not_stopped()
                check_hash(path, self._what)
        if not ignore_weights:
            check_weights(directory, self._what)
        log.info("the model %s is in %s", self._what, directory)
        return directory

    @property
    def _what(self) -> str:
        return repr(self._name) if self._revision is None else f"{self._name!r} at revision {self._revision!r}"

    def _download(self, patterns: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        self._is_silent = not self._is_offline and self._takes_and_says_nothing()
        try:
            return Path(
                snapshot_download(
                    self._name,
                    revision=self._revision,
                    cache_dir=self._cache,
                    allow_patterns=patterns,
                    local_files_only=self._is_offline or self._is_silent,
                    endpoint=self._endpoint,
                    tqdm_class=_bar_class(self._on_progress, self._check_not_stopped),
                )
            )
        except Cancelled:
            raise
        except Exception as error:  # of the hub's library, of its HTTP client, of the disk: all end the download
            raise ConfigError(self._why(error), model_path=self._name) from error

    def _takes_and_says_nothing(self) -> bool:
        """Whether the hub takes a question and does not answer: the library would ask it without a deadline."""
        from huggingface_hub import HfApi

        asked = time.monotonic()
        try:
            HfApi(endpoint=self._endpoint).repo_info(self._name, revision=self._revision, timeout=self._answer_s)
        except Exception as error:  # whatever else is wrong, the download says
            if time.monotonic() - asked < self._answer_s:
                return False
            log.warning(
                "the hub has not answered for %g s: what is in %s is used (%s)", self._answer_s, self._cache, error
            )
            return True
        return False

    def _check_not_stopped(self) -> None:
        if self._stop.is_set():
            raise Cancelled(f"the download of the model {self._what} was given up; the next one goes on from here")

    def _why(self, error: Exception) -> str:
        """Say what a failure of the hub's library means to who wants the model."""
        from huggingface_hub import errors

        could_not = f"{self._name!r} is not a directory, and could not be fetched from the hub"
        if isinstance(error, errors.GatedRepoError):
            return f"{could_not}: accept its terms on the hub's page of it, and set HF_TOKEN to a token of yours"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"{could_not}: the hub has no such model, or HF_TOKEN is not of somebody who may see it"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{could_not}: it has no revision {self._revision!r}"
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and not isinstance(error, ConnectionError | TimeoutError)
        ):
            place = f"{self._cache} (HF_HUB_CACHE, or cache_dir)"
            return f"{could_not}: it cannot be kept in {place}: {error.strerror or error}; make room, or name another"
        reason = cut((str(error).strip().splitlines() or [type(error).__name__])[0], _REASON_CHARS_MAX)
        if self._is_offline:
            return (
                f"{could_not}: HF_HUB_OFFLINE is set, and {self._what} is not complete in {self._cache}; fetch it once "
                f"without that ({reason})"
            )
        if self._is_silent:
            silence = f"it has not answered for {self._answer_s:g} s"
            return f"{could_not}: {silence}, and {self._cache} has not all of {self._what}"
        return f"{could_not}: {reason}"


def _bar_class(on_progress: Callable[[int, int], None] | None, check_not_stopped: Callable[[], None]) -> type[Any]:
    """Return what the library makes its progress bars of: shown on a terminal if nobody else is told."""
    from huggingface_hub.utils.tqdm import tqdm

    is_shown = on_progress is None and sys.stderr.isatty()

    class Bar(tqdm):
        def __init__(self, *args: object, **kwargs: object) -> None:
            self._tells = kwargs.get("name") == _BYTES_BAR and kwargs.get("unit") == "B"
            self._done_bytes = 0
            if not is_shown:
                kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            check_not_stopped()
            if self._tells and on_progress is not None:
                self._done_bytes += int(n or 0)
                on_progress(self._done_bytes, int(self.total or 0))
            shown: bool | None = super().update(n)
            return shown

    return Bar
