"""`python -m dynamo.router`, as its own process, with workers and frontends that are processes, too."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.router.scene import Asker, Item, request
from tests.system.programs import DEADLINE_S, Program, environment_of

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, ModelConfig, PreprocessedRequest, register_llm, serve_engine
from dynamo.runtime import DistributedRuntime

PROMPT = list(range(100, 200))
WORKERS = "dynamo.backend.generate"


class Site:
    """Processes that find each other in one folder."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.discovery = f"file://{folder / 'discovery'}"
        self._environment = environment_of(self.discovery)
        self._model = model
        self._programs: list[Program] = []

    async def start(self, *command: str) -> Program:
        program = await Program.start(*command, environment=self._environment)
        self._programs.append(program)
        return program

    async def mocker(self, *options: str) -> tuple[Program, int]:
        """A worker that is ready, and its id."""
        model = ["--model-path", str(self._model), "--model-name", "mock", "--block-size", "16"]
        worker = await self.start("dynamo.mocker", *model, *options)
        found = await worker.line(r"serving the model 'mock' at \S+, instance (\w+)")
        return worker, int(found[1], 16)

    async def router(self, *options: str) -> Program:
        """A router that takes requests."""
        router = await self.start("dynamo.router", "--endpoint", WORKERS, *options)
        await router.line("listening on ")
        return router

    async def frontend(self, *options: str) -> str:
        """A frontend that has a model; its URL."""
        frontend = await self.start("dynamo.frontend", "--http-port", "0", *options)
        url = (await frontend.line(r"listening on (\S+)"))[1]
        await frontend.line("ready: ")
        return url

    async def close(self) -> None:
        for program in self._programs:
            await program.close()


@pytest.fixture
async def site(tmp_path: Path, tiny_model: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, tiny_model)
    try:
        yield site
    finally:
        await site.close()


@asynccontextmanager
async def client_at(site: Site, component: str = "dynamo.router") -> AsyncIterator[Asker]:
    async with DistributedRuntime(discovery=site.discovery) as runtime:
        asker = Asker(runtime, component)
        await asker.there()
        yield asker


def routed_to(items: list[Item]) -> object:
    return items[0]["routed_to"]


async def test_a_router_that_was_killed_is_replaced_by_one_that_knows_where_prompts_are(site: Site) -> None:
    await site.mocker()
    await site.mocker()
    router = await site.router()
    async with client_at(site) as asker:
        (first,) = [item["routed_to"] for item in await asker.generate(request(PROMPT, max_tokens=1))]
        assert isinstance(first, dict)
        await asker.until_cached(PROMPT, 6)
        assert routed_to(await asker.generate(request(PROMPT))) == {**first, "overlap_blocks": 6}
    await router.kill()
    await site.router()
    async with client_at(site) as asker:
        await asker.until_cached(PROMPT, 6)
        for _ in range(3):
            assert routed_to(await asker.generate(request(PROMPT))) == {**first, "overlap_blocks": 6}


async def test_frontends_share_a_router_and_outlive_the_loss_of_a_worker(site: Site) -> None:
    slow, slow_id = await site.mocker("--speedup-ratio", "0.1")
    await site.router("--namespace", "routed")
    urls = [await site.frontend("--namespace", "routed") for _ in range(2)]
    body = {"model": "mock", "prompt": PROMPT, "max_tokens": 2}
    async with client_at(site, "routed.router") as asker, httpx.AsyncClient(timeout=DEADLINE_S) as http:
        assert await cached(http, urls[0], body) == 0
        await asker.until_cached(PROMPT, 6)
        assert [await cached(http, url, body) for url in urls] == [96, 96]
        await site.mocker("--speedup-ratio", "0")
        await asker.until_workers(2)
        # What frontends are asked of workers is for the router.
        for wish, status in (
            ({"backend_instance_id": slow_id}, 200),
            ({"routing_constraints": {"required_taints": ["a"]}}, 503),
        ):
            answer = await http.post(f"{urls[0]}/v1/completions", json={**body, "nvext": wish})
            assert answer.status_code == status

        # It goes to the slow worker, which has its prompt and would take 40 s.
        long = asyncio.create_task(http.post(f"{urls[0]}/v1/completions", json={**body, "max_tokens": 600}))
        await asker.until_requests(1)
        assert [id for id, num in (await asker.num_requests()).items() if num] == [slow_id]
        await slow.kill()
        answer = (await long).raise_for_status().json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 600


class Held:
    """An engine that says half of each answer, and the rest once it may."""

    def __init__(self) -> None:
        self.is_halfway, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncIterator[EngineOutput]:
        num_tokens = request.stop_conditions.max_tokens
        assert num_tokens is not None
        for index in range(num_tokens):
            if index == num_tokens // 2:
                self.is_halfway.set()
                await self.may_go_on.wait()
            yield EngineOutput(token_ids=[65])
        yield EngineOutput(finish_reason="length")


async def test_an_answer_goes_on_at_another_router_when_its_own_is_killed(site: Site, tiny_model: Path) -> None:
    engine = Held()
    async with DistributedRuntime(discovery=site.discovery) as runtime, httpx.AsyncClient(timeout=DEADLINE_S) as http:
        worker = runtime.endpoint(WORKERS)
        await serve_engine(worker, engine)
        await register_llm(worker, ModelConfig(path=tiny_model, name="mock", kv_cache_block_size=16))
        first = await site.router("--namespace", "routed")
        url = await site.frontend("--namespace", "routed")
        body = {"model": "mock", "prompt": PROMPT, "max_tokens": 20}
        held = asyncio.create_task(http.post(f"{url}/v1/completions", json=body))
        async with asyncio.timeout(DEADLINE_S):
            await engine.is_halfway.wait()
            await site.router("--namespace", "routed")
            while len((await http.get(f"{url}/health")).json()["instances"]["mock"]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await first.kill()
        engine.may_go_on.set()
        answer = (await held).raise_for_status().json()
    assert answer["usage"]["completion_tokens"] == 20


async def test_a_frontend_that_sees_the_workers_beside_their_router_uses_one_of_them_and_says_so(site: Site) -> None:
    await site.mocker()
    await site.router("--namespace", "routed")
    frontend = await site.start("dynamo.frontend", "--http-port", "0")
    await frontend.line(
        r"is refused for the model 'mock': its endpoint is (dynamo/backend|routed/router)/generate, and"
    )
    await frontend.line("ready: serving mock")


async def cached(http: httpx.AsyncClient, url: str, body: dict[str, object]) -> int:
    answer = (await http.post(f"{url}/v1/completions", json=body)).raise_for_status().json()
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_lets_an_answer_end_and_the_status_is_0(site: Site, number: signal.Signals) -> None:
    await site.mocker()
    router = await site.router()
    async with client_at(site) as asker:
        stream = await asker.send(request(PROMPT, max_tokens=100))
        items = await stream.batch()
        router.process.send_signal(number)
        items += [item async for item in stream]
        assert items[-1]["finish_reason"] == "length"
    assert await router.exit_status() == 0
    assert "Traceback" not in router.text


async def test_a_router_that_waits_for_workers_ends_at_once(site: Site) -> None:
    router = await site.start("dynamo.router", "--endpoint", WORKERS)
    await router.line("waiting for a worker: nobody serves dynamo/backend/generate")
    router.terminate()
    assert await router.exit_status() == 128 + signal.SIGTERM
    assert "Traceback" not in router.text


async def test_a_block_size_that_the_workers_do_not_have_ends_it_with_both_values(site: Site) -> None:
    await site.mocker()
    router = await site.start("dynamo.router", "--endpoint", WORKERS, "--block-size", "32")
    assert await router.exit_status() == 1
    assert router.lines[-1].startswith("error: ")
    assert "its KV cache block size is 16, and that of this router is 32" in router.lines[-1]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynamo.router", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)


def test_help_names_every_option_with_its_variable_and_its_default() -> None:
    done = run("--help")
    assert done.returncode == 0
    said = " ".join(done.stdout.split())
    for option in (
        "--endpoint TEXT endpoint of the workers, as NAMESPACE.COMPONENT.ENDPOINT [DYN_ENDPOINT] (required)",
        "[DYN_BLOCK_SIZE] (default: none; 1 or more)",
        "[DYN_BOOKING_TIMEOUT_S] (default: 300.0; from 0.1 to 86400)",
        "[DYN_ROUTER_TEMPERATURE] (default: 0.0; 0 or more)",
    ):
        assert option in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--endpoint is missing: give it, or set DYN_ENDPOINT"),
        (("--endpoint", "a.b"), "--endpoint: 'a.b' is not an endpoint: write namespace.component.endpoint"),
        (("--endpoint", "a.b.c", "--namespace", "/"), "--namespace: '/' is not a valid namespace"),
        (("--endpoint", "a.b.c", "--component", "b"), "give another --component or --namespace"),
        (("--endpoint", "a.b.c", "--block-size", "0"), "--block-size"),
        (("--endpoint", "a.b.c", "--router-mode", "random"), "--router-mode='random' must be one of kv"),
        (("--endpoint", "a.b.c", "--router-temprature", "1"), "--router-temprature"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_said_in_one_line_with_status_2(options: tuple[str, ...], said: str) -> None:
    done = run(*options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
