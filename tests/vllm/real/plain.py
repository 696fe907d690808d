"""`vllm serve`, without anything of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from tests.free_port import free_port
from tests.system.programs import Program, environment_of, until
from tests.system.streams import client_of
from tests.vllm.real.cases import MODEL_NAME, Case
from tests.vllm.real.settings import CONTEXT_LENGTH, ENGINE_OPTIONS, FRUGAL, START_S


class PlainServer:
    """A server that publishes its KV events at `events`: where it binds, or else connects to."""

    def __init__(self, program: Program, url: str, events: str, replay: str, *, binds: bool) -> None:
        self.url = url
        #: What `dynamo route` is told of it.
        self.events = f"{events},{replay}" + ("" if binds else ",bind")
        self._program = program

    @classmethod
    async def start(cls, model: Path, discovery: str, *, binds: bool) -> Self:
        """Return before it is ready. vLLM binds an address with a star, and connects to another one."""
        port, replay = free_port(), f"tcp://127.0.0.1:{free_port()}"
        events = f"tcp://{'*' if binds else '127.0.0.1'}:{free_port()}"
        kv_events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": events, "replay_endpoint": replay}
        program = await Program.start(
            "vllm.entrypoints.cli.main", "serve", str(model), "--served-model-name", MODEL_NAME,
            "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(CONTEXT_LENGTH), *ENGINE_OPTIONS,
            "--enable-prefix-caching", "--enable-prompt-tokens-details", "--kv-events-config", json.dumps(kv_events),
            environment=environment_of(discovery, **FRUGAL),
        )  # fmt: skip
        return cls(program, f"http://127.0.0.1:{port}", events, replay, binds=binds)

    async def ready(self) -> None:
        """Wait until it answers."""
        said = "Application startup complete"
        await until(lambda: said in self._program.text or self._program.ended, within_s=START_S)
        assert not self._program.ended, self._program.text

    async def answer(self, case: Case) -> dict[str, Any]:
        """What it says: the token ids, why they end, and how likely they were, if that is asked for."""
        body = {"model": MODEL_NAME, "prompt": case.ours.token_ids, "return_token_ids": True, **case.vllms}
        async with client_of(self.url) as client:
            answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        [choice] = answer.json()["choices"]
        log_probs = (choice["logprobs"] or {}).get("token_logprobs", [])
        return {
            "token_ids": choice["token_ids"],
            "finish_reason": choice["finish_reason"],
            "log_probs": log_probs,
        }

    async def close(self) -> None:
        """End it with the processes that it has started, which are not ours to kill."""
        if not self._program.ended:
            self._program.terminate()
        await self._program.exit_status()
