"""What a worker tells the process that started it, and how each notices that the other is gone.

They share a socket pair. The worker sends lines of JSON; its end of file means that the worker is gone,
and the end of file that the worker reads means that the parent is. A byte that it reads tells it to retire.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import msgspec

from dynamo.sdk._orphans import kill_descendants
from dynamo.sdk._outline import Outline

#: How long a worker may take until it can be called, waiting for others included.
START_TIMEOUT_S = 1800.0
#: How long a worker that lost its parent may take to end by itself.
ORPHAN_GRACE_S = 5.0
#: What the parent sends to have a worker retire.
RETIRE = b"r"
LINE_BYTES_MAX = 1 << 20
REASON_CHARS_MAX = 4096

_PR_SET_PDEATHSIG = 1


class Starting(msgspec.Struct, tag="starting"):
    """The worker is on its way; `phase` says what it does now."""

    phase: str


class Ready(msgspec.Struct, tag="ready"):
    """The worker can be called."""


class Stopped(msgspec.Struct, tag="stopped"):
    """The worker takes and makes no more calls, its hooks have run, and its process is about to end."""


class Failed(msgspec.Struct, tag="failed"):
    """The worker gives up; `reason` is one line. `is_usage` says that the command line is wrong, not the graph.

    `is_away` says that nothing is wrong here: a server that a setting names, as etcd, cannot be reached now.
    """

    reason: str
    is_usage: bool = False
    is_away: bool = False


Report = Starting | Ready | Stopped | Failed | Outline

_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def decode_report(line: bytes) -> Report:
    """Read one line that a worker sent."""
    return _decoder.decode(line)


class StatusPipe:
    """The worker's end."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        #: Called, in a thread of its own, when others have taken this worker's place: it is to unregister at
        #: once, and to end when nobody can be about to call it any more.
        self.on_retire: Callable[[], object] = self._end

    def send(self, report: Report) -> None:
        """Tell the parent. A parent that is gone hears nothing, which `watch_parent` sees to."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(msgspec.json.encode(report) + b"\n")

    def fail(self, reason: str, *, is_usage: bool = False, is_away: bool = False) -> None:
        """Tell the parent why the worker gives up, in one line."""
        self.send(Failed(" ".join(reason.split())[:REASON_CHARS_MAX], is_usage, is_away))

    def watch_parent(self) -> None:
        """End this process when the parent is gone: by SIGTERM, and if that is not enough by SIGKILL.

        The watch is a thread and needs no event loop, so it also ends a worker whose loop is blocked; the
        SIGKILL goes to all that the worker has started, and to its process group, which it leads. Where the
        kernel can, it sends the SIGTERM as well.
        """
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        def watch() -> None:
            with contextlib.suppress(OSError, RuntimeError):  # the loop that is to hear of it may have ended
                while self._socket.recv(1):
                    self.on_retire()
            self._end()
            threading.Event().wait(ORPHAN_GRACE_S)
            kill_descendants()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpid(), signal.SIGKILL)
            os._exit(1)

        threading.Thread(target=watch, name="dynamo-parent-watch", daemon=True).start()

    def _end(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
