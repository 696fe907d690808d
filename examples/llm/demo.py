"""Serve a model on this machine with `dynamo serve` and stream one chat completion.

Without `--model` a small random Llama is made first: its answers are gibberish, everything else is real.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TINY_MODEL = HERE.parents[1] / ".cache" / "demo-model"
READY_TIMEOUT_S = 600.0  # a large model from a slow disk takes its time
POLL_S = 0.1
QUESTION = "Say hello to the world."


def main() -> int:
    arguments = parse_arguments()
    if not is_free(arguments.port):
        print(f"demo failed: port {arguments.port} is in use; choose another with --port", file=sys.stderr)
        return 1
    model = arguments.model or make_tiny_model()
    command = [
        *(sys.executable, "-m", "dynamo.cli", "serve", "graphs.agg:Frontend", "-f", "configs/agg.yaml"),
        *(f"--Worker.model_path={model}", f"--Frontend.http_port={arguments.port}"),
    ]
    # In a group of its own, so that Ctrl-C comes to this process and from here, once, to the graph.
    graph = subprocess.Popen(command, cwd=HERE, start_new_session=True)
    try:
        name = wait_until_ready(graph, arguments.port)
        print(f"\n{QUESTION}\n> ", end="")
        stream_chat(arguments.port, name)
        print_what_to_try(arguments.port, name)
        if not arguments.once:
            return graph.wait()
    except KeyboardInterrupt:
        print()
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    finally:
        stop(graph)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--model", metavar="PATH_OR_HF_ID", help="serve this model instead of a small random one")
    parser.add_argument("--port", type=int, default=8000, metavar="P", help="port of the HTTP frontend (default: 8000)")
    parser.add_argument("--once", action="store_true", help="exit after the completion instead of staying up")
    return parser.parse_args()


def is_free(port: int) -> bool:
    """Whether the frontend can listen there. Without this, the demo might talk to somebody else's server."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def make_tiny_model() -> Path:
    """Return a small model, made on first use."""
    if not (TINY_MODEL / "config.json").exists():
        print("Making a small model (once) ...", flush=True)
        subprocess.run([sys.executable, HERE / "make_tiny_model.py", TINY_MODEL], check=True)
    return TINY_MODEL


def wait_until_ready(graph: subprocess.Popen[bytes], port: int) -> str:
    """Wait until a model can be served, and return its name."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if graph.poll() is not None:
            raise RuntimeError(f"dynamo serve ended with status {graph.returncode}; its output says why")
        try:
            if request(port, "GET", "/health").status == http.client.OK:
                models = json.load(request(port, "GET", "/v1/models"))
                return str(models["data"][0]["id"])
        except ConnectionError:
            pass  # not listening yet
        time.sleep(POLL_S)
    raise RuntimeError(f"no model could be served within {READY_TIMEOUT_S:.0f} s")


def request(port: int, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
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
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hi"}}], "stream": true}}'

  from openai import OpenAI
  client = OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="none")
  for chunk in client.chat.completions.create(
      model="{model}", messages=[{{"role": "user", "content": "Hi"}}], stream=True):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

Ctrl-C ends it.
""",
        flush=True,
    )


def stop(graph: subprocess.Popen[bytes]) -> None:
    """End the graph in an orderly way."""
    if graph.poll() is None:
        graph.send_signal(signal.SIGINT)
    graph.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(main())
