"""Serve a model on this machine with `dynamo serve` and stream one chat completion.

Without `--model` a small random Llama is made first: its answers are gibberish, everything else is real.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TINY_MODEL = HERE.parents[1] / ".cache" / "demo-model"
READY_TIMEOUT_S = 600.0  # a large model from a slow disk takes its time
ANSWER_TIMEOUT_S = 120.0
INTERRUPTED = 130
QUESTION = "Say hello to the world."

_PR_SET_PDEATHSIG = 1


class Graph:
    """`dynamo serve` as a child: its output passes through, and its `ready` line is waited for."""

    def __init__(self, model: str, port: int, discovery: str) -> None:
        command = [
            *(sys.executable, "-m", "dynamo.cli", "serve", "graphs.agg:Frontend", "-f", "configs/agg.yaml"),
            *(f"--Worker.model_path={model}", f"--Frontend.http_port={port}"),
        ]
        # In a session of its own, so that Ctrl-C comes to this process, and from here, once, to the graph.
        self._process = subprocess.Popen(
            command,
            cwd=HERE,
            env={"DYN_DISCOVERY": discovery, **os.environ},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._ready = threading.Event()  # or ended
        threading.Thread(target=self._relay, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Return when everything in the graph can be called. Raises RuntimeError if that does not happen."""
        if not self._ready.wait(READY_TIMEOUT_S):
            raise RuntimeError(f"the graph was not ready within {READY_TIMEOUT_S:.0f} s")
        if self._process.poll() is not None:
            raise RuntimeError(f"dynamo serve ended with status {self._process.returncode}; its output says why")

    def wait(self) -> int:
        return self._process.wait()

    def stop(self) -> None:
        """End it in an orderly way."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def _relay(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(line, end="", flush=True)
            if line.startswith("ready in "):
                self._ready.set()
        self._process.wait()
        self._ready.set()


def main() -> int:
    arguments = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if not is_free(arguments.port):
        print(f"demo failed: port {arguments.port} is in use; choose another with --port", file=sys.stderr)
        return 1
    # A discovery of its own: another demo on this machine is another world.
    with tempfile.TemporaryDirectory(prefix="dynamo-demo-") as directory:
        return run(arguments, f"file://{directory}")


def run(arguments: argparse.Namespace, discovery: str) -> int:
    """Serve, ask once, and stay; return the exit status."""
    graph, answered = None, False
    try:
        graph = Graph(find_model(arguments.model), arguments.port, discovery)
        graph.wait_until_ready()
        name = json.load(request(arguments.port, "GET", "/v1/models"))["data"][0]["id"]
        print(f"\n{QUESTION}\n> ", end="", flush=True)
        stream_chat(arguments.port, name)
        answered = True
        if arguments.once:
            return 0
        print_what_to_try(arguments.port, name)
        return graph.wait()
    except KeyboardInterrupt:
        print()
        return 0 if answered else INTERRUPTED
    except (OSError, RuntimeError, http.client.HTTPException, subprocess.SubprocessError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    finally:
        if graph is not None:
            graph.stop()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--model", metavar="PATH_OR_HF_ID", help="serve this model instead of a small random one")
    parser.add_argument("--port", type=port, default=8000, metavar="P", help="port of the frontend (default: 8000)")
    parser.add_argument("--once", action="store_true", help="exit after the completion instead of staying up")
    return parser.parse_args()


def port(text: str) -> int:
    """A TCP port, from 1 to 65535."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 1 to 65535 is")
    return int(text)


def find_model(wanted: str | None) -> str:
    """Return the model to serve: a path as the caller sees it, a name on the hub, or a small one, made on first use."""
    if wanted is not None:
        path = Path(os.environ.get("DEMO_FROM", ""), wanted).expanduser()
        return str(path.resolve()) if path.exists() else wanted
    if not (TINY_MODEL / "config.json").exists():
        print("Making a small model (once) ...", flush=True)
        subprocess.run([sys.executable, HERE / "make_tiny_model.py", TINY_MODEL], check=True)
    return str(TINY_MODEL)


def is_free(port: int) -> bool:
    """Whether the frontend can listen there. Without this, the demo might talk to somebody else's server."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def request(port: int, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
    payload = None if body is None else json.dumps(body)
    connection.request(method, path, payload, {"Content-Type": "application/json"})
    return connection.getresponse()


def stream_chat(port: int, model: str) -> None:
    """Print a chat completion as it arrives. Raises RuntimeError if it does not end as it should."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 48, "stream": True}
    response = request(port, "POST", "/v1/chat/completions", body)
    if response.status != http.client.OK:
        raise RuntimeError(f"the server answered {response.status}: {response.read().decode()}")
    finish_reason = None
    for chunk in events(response):
        if "error" in chunk:
            raise RuntimeError(f"the stream ended with an error: {chunk['error']['message']}")
        for choice in chunk["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
            finish_reason = choice["finish_reason"] or finish_reason
    print(f"\n[finish_reason: {finish_reason}]")
    if finish_reason is None:
        raise RuntimeError("the stream ended without a finish_reason")


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the data of each server-sent event, up to [DONE]."""
    for line in response:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line.removeprefix(b"data: "))


def print_what_to_try(port: int, model: str) -> None:
    print(
        f"""
Try it yourself:

  curl -N http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hi"}}], "max_tokens": 64, "stream": true}}'

  # .venv/bin/python -m pip install openai
  from openai import OpenAI
  client = OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="none")
  for chunk in client.chat.completions.create(
      model="{model}", messages=[{{"role": "user", "content": "Hi"}}], max_tokens=64, stream=True):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

Ctrl-C ends it.
""",
        flush=True,
    )


def _end_with_parent() -> None:
    """In the child, before it becomes `dynamo serve`: end in an orderly way if the demo is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
