"""Labels that workers are started with decide where requests go: every part is a process of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.frontend.mocked import decision_in
from tests.frontend.test_command import START_S, running

PROMPT = list(range(100, 150))


@pytest.mark.parametrize("mode", ["kv", "device-aware-weighted"])
async def test_a_request_goes_to_the_worker_with_the_taints_that_it_requires(
    tmp_path: Path, tiny_model: Path, mode: str
) -> None:
    model = ("--model-path", str(tiny_model), "--model-name", "m", "--speedup-ratio", "0")
    labels = (["--taints", "h100,eu", "--device-weight", "3"], ["--taints", "a100,eu"])
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(running(tmp_path, "dynamo.mocker", *model, *one)) for one in labels]
        ids = [int((await worker.line("serving the model ")).rpartition(" ")[2], 16) for worker in workers]
        frontend = running(tmp_path, "dynamo.frontend", "--http-port", "0", "--router-mode", mode)
        server = await stack.enter_async_context(frontend)
        url = (await server.line("listening on ")).rpartition(" ")[2]
        await server.line("ready: ")
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=START_S))

        async def ask(taints: list[str]) -> httpx.Response:
            nvext = {"explain": True, "routing_constraints": {"required_taints": taints}}
            body = {"model": "m", "prompt": PROMPT, "max_tokens": 1, "nvext": nvext}
            return await http.post("/v1/completions", json=body)

        while len((await http.get("/health")).json()["instances"].get("m", [])) < len(workers):
            pass
        for taints, expected in ((["h100"], ids[0]), (["a100", "eu"], ids[1])):
            assert {decision_in(await ask(taints))["worker_id"] for _ in range(3)} == {expected}
        refused = await ask(["h100", "mars"])
        if mode == "device-aware-weighted":  # the stronger one has the lesser load
            decision = decision_in(await ask(["eu"]))
            loads = {one["worker_id"]: one["load"] for one in decision["candidates"]}  # type: ignore[attr-defined]
            assert loads == {ids[0]: pytest.approx(1 / 3), ids[1]: 1.0}
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_worker_fits"
    assert refused.json()["error"]["message"] == (
        "none of the 2 workers that could take the request has all the taints that the request requires, h100, mars: "
        "no worker has mars; the taints that there are: a100, eu, h100"
    )
