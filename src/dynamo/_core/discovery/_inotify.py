"""What the kernel says about changes in a directory (Linux)."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from asyncinotify import Inotify

_log = logging.getLogger(__name__)


class Changes(NamedTuple):
    """What has happened since the last call."""

    #: Files that appeared, vanished or were written.
    names: set[str]
    #: Those of them that someone who could write to them has closed, as a dying process does.
    closed: set[str]
    #: Something was not reported, or the directory itself has changed: look at everything.
    incomplete: bool


class ChangeSource(Protocol):
    """Reports changes of one directory."""

    def drain(self) -> Changes:
        """Return what has happened since the last call, without waiting."""

    def pause(self) -> None:
        """Do not wake anyone until `resume`; what happens meanwhile is kept."""

    def resume(self) -> None:
        """Wake again. Without a pause it changes nothing."""

    def close(self) -> None:
        """Stop reporting. A second call changes nothing."""


def open_inotify(directory: str, wake: Callable[[], None]) -> ChangeSource | None:
    """Begin to report, calling `wake` on the running loop when there is something to drain.

    None where the system has no inotify, or (with a warning) no more of it for this user.
    """
    if sys.platform != "linux":
        return None
    try:
        return _InotifySource(directory, wake)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOSYS):
            raise
        _log.warning(
            "no inotify for %s (%s): looking for changes several times a second instead; "
            "raise fs.inotify.max_user_instances with sysctl",
            directory,
            error.strerror,
        )
        return None


class _InotifySource:
    def __init__(self, directory: str, wake: Callable[[], None]) -> None:
        import asyncio

        from asyncinotify import Inotify, Mask

        self._lost = Mask.Q_OVERFLOW | Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.ISDIR
        self._closed = Mask.CLOSE_WRITE
        self._inotify: Inotify | None = Inotify(cache_size=64, sync_timeout=0)
        try:
            self._inotify.add_watch(
                directory,
                Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.CLOSE_WRITE
                | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR | Mask.EXCL_UNLINK,
            )  # fmt: skip
        except BaseException:
            self._inotify.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._paused = True
        self.resume()

    def drain(self) -> Changes:
        changes = Changes(set(), set(), False)
        while self._inotify is not None and (event := self._inotify.sync_get()) is not None:
            if event.mask & self._lost:
                changes = changes._replace(incomplete=True)
            elif event.name is not None:
                changes.names.add(str(event.name))
                if event.mask & self._closed:
                    changes.closed.add(str(event.name))
        return changes

    def pause(self) -> None:
        if self._inotify is not None and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._inotify.fd)

    def resume(self) -> None:
        if self._inotify is not None and self._paused:
            self._paused = False
            self._loop.add_reader(self._inotify.fd, self._wake)

    def close(self) -> None:
        self.pause()
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            inotify.close()
