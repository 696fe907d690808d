"""A small hub: an HTTP server that speaks as much of the Hugging Face hub's API as a download needs."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import msgspec

_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
_FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


def commit_of(files: Mapping[str, bytes]) -> str:
    return hashlib.sha1(msgspec.json.encode({name: data.hex() for name, data in files.items()})).hexdigest()


class Hub:
    """Serves revisions of models; remembers what it was asked, and misbehaves as it is told."""

    def __init__(self, url: str) -> None:
        self.url = url
        #: By name and revision: the content of each file.
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        #: "GET path" or "HEAD path", with the range if there was one.
        self.requests: list[str] = []
        #: The connection ends after so many bytes of this file, once.
        self.cuts: dict[str, int] = {}
        #: What is sent in place of a file, which its hash does not fit.
        self.lies: dict[str, bytes] = {}
        #: Somebody waits here before this file is sent.
        self.holds: dict[str, threading.Event] = {}
        #: Whether questions are answered; whoever asks waits for it.
        self.answers = threading.Event()
        self.answers.set()

    def add(self, name: str, files: Mapping[str, bytes], *revisions: str) -> str:
        """Add a model at a commit, and at these branches or tags; return the commit."""
        commit = commit_of(files)
        for revision in (commit, *(revisions or ("main",))):
            self.models.setdefault(name, {})[revision] = dict(files)
        return commit

    def gets(self, path: str) -> list[str]:
        """The requests for the content of one file."""
        return [one for one in self.requests if one.startswith("GET ") and f"/{path}" in one]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        span = self.headers.get("Range", "")
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path} {span}".strip())
        self.hub.answers.wait(30)
        if api := _API.fullmatch(path):
            self._answer_api(api["name"], api["what"], api["revision"] or "main")
        elif file := _FILE.fullmatch(path):
            self._answer_file(file["name"], file["revision"], file["path"], span)
        else:
            self._refuse("EntryNotFound")

    def _answer_api(self, name: str, what: str | None, revision: str) -> None:
        files = self._files(name, revision)
        if files is None:
            return
        commit = commit_of(files)
        if what == "tree":
            self._say([_entry(path, data) for path, data in files.items()])
        else:
            self._say({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def _files(self, name: str, revision: str) -> dict[str, bytes] | None:
        model = self.hub.models.get(name)
        if model is None or revision not in model:
            self._refuse("RepoNotFound" if model is None else "RevisionNotFound")
            return None
        return model[revision]

    def _answer_file(self, name: str, revision: str, path: str, span: str) -> None:
        files = self._files(name, revision)
        if files is None:
            return
        if path not in files:
            self._refuse("EntryNotFound")
            return
        data = files[path]
        etag = hashlib.sha256(data).hexdigest() if _is_large(path) else _git_sha1(data)
        if self.command == "GET" and path in self.hub.holds:
            self.hub.holds[path].wait(30)
        first = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        body = self.hub.lies.get(path, data)[first:]
        self.send_response(206 if span else 200)
        self.send_header("X-Repo-Commit", commit_of(files))
        self.send_header("ETag", f'"{etag}"')
        if _is_large(path):
            self.send_header("X-Linked-ETag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(data)))
        if span:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            cut = self.hub.cuts.pop(path, None)
            self.wfile.write(body[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _say(self, value: object) -> None:
        body = msgspec.json.encode(value)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _entry(path: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": _git_sha1(data)}
    if _is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def safetensors(size_bytes: int) -> bytes:
    """A file of weights with one tensor."""
    header = msgspec.json.encode({"w": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}})
    return len(header).to_bytes(8, "little") + header + bytes(range(256)) * (size_bytes // 256)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    _Handler.hub = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
