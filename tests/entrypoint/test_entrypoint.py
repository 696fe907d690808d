"""`make_engine` and `run_input`: who asks and who answers, in the test itself."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest
from tests.cli.serving import environment_of
from tests.llm.scene import World
from tests.signalled import signalled_amid_answer

from dynamo._core.errors import ConfigError, DynamoError, InvalidArgument, NotFound
from dynamo.llm import (
    EngineConfig,
    EngineType,
    EntrypointArgs,
    RouterConfig,
    RouterMode,
    make_engine,
    run_input,
)
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import DistributedRuntime

DEADLINE_S = 30.0


def echo(model: Path, **arguments: object) -> EntrypointArgs:
    return EntrypointArgs(EngineType.Echo, model_path=model, **arguments)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(
    runtime: DistributedRuntime, args: EntrypointArgs, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[openai.AsyncOpenAI]:
    """Run the input "http" until the end of the block, which shuts the runtime down; yield a client of it."""
    caplog.set_level(logging.INFO, "dynamo.entrypoint")
    running = asyncio.create_task(run_input(runtime, "http", await make_engine(runtime, args)))
    try:
        async with asyncio.timeout(DEADLINE_S):
            url = await _said(caplog, running, r"ready: serving .* at (\S+)")
            async with openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0) as client:
                yield client
            runtime.shutdown()
            assert await running == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _said(caplog: pytest.LogCaptureFixture, running: asyncio.Task[int], pattern: str) -> str:
    """Return what the log says, once it does."""
    while (found := re.search(pattern, caplog.text)) is None:
        if running.done():
            running.result()
        await asyncio.sleep(0.005)
    return found[1]


# HTTP.


@pytest.mark.parametrize("engine_type", [EngineType.Echo, EngineType.Mocker])
async def test_http_serves_an_engine_of_this_process(
    engine_type: EngineType, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with World().runtime() as runtime:
        args = EntrypointArgs(engine_type, model_path=str(tiny_model), model_name="parrot", http_port=0)
        async with serving(runtime, args, caplog) as client:
            answer = await client.completions.create(model="parrot", prompt="one two three", max_tokens=4)
            assert [model.id for model in (await client.models.list()).data] == ["parrot"]
            assert await runtime.discovery.get_prefix("") == {}, "it is nobody else's"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    if engine_type is EngineType.Echo:
        assert answer.choices[0].text.startswith("one")


async def test_http_serves_the_workers_of_the_runtime(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with world.runtime() as worker_runtime, world.runtime() as runtime:
        engine = await make_engine(worker_runtime, echo(tiny_model, model_name="parrot"))
        worker = asyncio.create_task(run_input(worker_runtime, "dyn://zoo.birds.generate", engine))
        args = EntrypointArgs(
            EngineType.Dynamic, http_port=0, namespace="zoo", router_config=RouterConfig(RouterMode.LeastLoaded)
        )
        async with serving(runtime, args, caplog) as client:
            answer = await client.chat.completions.create(
                model="parrot", messages=[{"role": "user", "content": "hello there"}]
            )
        assert (answer.choices[0].message.content or "").strip() == "hello there"
        worker_runtime.shutdown()
        assert await asyncio.wait_for(worker, DEADLINE_S) == 0


async def test_of_several_endpoints_one_can_be_chosen(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with world.runtime() as parrots, world.runtime() as ravens, world.runtime() as runtime:
        workers = []
        for of, name in ((parrots, "parrot"), (ravens, "raven")):
            engine = await make_engine(of, echo(tiny_model, model_name=name))
            workers.append(asyncio.create_task(run_input(of, f"dyn://zoo.{name}.generate", engine)))
        args = EntrypointArgs(EngineType.Dynamic, http_port=0, endpoint_id="zoo.raven.generate")
        async with serving(runtime, args, caplog) as client:
            assert [model.id for model in (await client.models.list()).data] == ["raven"]
        parrots.shutdown()
        ravens.shutdown()
        assert await asyncio.wait_for(asyncio.gather(*workers), DEADLINE_S) == [0, 0]


async def test_a_run_that_is_cancelled_closes_its_port(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dynamo.entrypoint")
    async with asyncio.timeout(DEADLINE_S), World().runtime() as runtime:
        engine = await make_engine(runtime, echo(tiny_model, http_port=0))
        running = asyncio.create_task(run_input(runtime, "http", engine))
        url = await _said(caplog, running, r"ready: serving .* at (\S+)")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/live")


# A worker.


async def test_dyn_makes_a_worker_whose_card_says_what_it_was_told(tiny_model: Path) -> None:
    world = World()
    async with asyncio.timeout(DEADLINE_S), world.runtime() as runtime, world.runtime() as other:
        args = EntrypointArgs(
            EngineType.Mocker,
            model_path=tiny_model,
            kv_cache_block_size=32,
            context_length=256,
            migration_limit=0,
            runtime_config={"taints": ["h100"]},
            mocker_engine_args={"num_gpu_blocks": 64, "speedup_ratio": 0},
        )
        engine = await make_engine(runtime, args)
        running = asyncio.create_task(run_input(runtime, "dyn://zoo.birds.generate", engine))
        client = await other.endpoint("zoo.birds.generate").client()
        await client.wait_for_instances()
        while not (cards := await other.discovery.get_prefix("v1/mdc")):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        card = ModelCard.from_json(next(iter(cards.values())))
        assert (card.display_name, card.context_length) == (tiny_model.name, 256)
        assert (card.kv_cache_block_size, card.migration_limit) == (32, 0)
        assert card.runtime_config["taints"] == ["h100"]
        assert card.runtime_config["total_kv_blocks"] == 64
        runtime.shutdown()
        assert await running == 0
        assert await other.discovery.get_prefix("v1/mdc") == {}


# Text and batch.


async def test_text_answers_the_prompt_on_stdin(environment: dict[str, str], tiny_model: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, "text", str(tiny_model)],
        input="hello there",
        capture_output=True,
        text=True,
        env=environment,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "hello there", "")


async def test_batch_answers_the_lines_of_a_file(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"wrong": 1}\n')
    async with asyncio.timeout(DEADLINE_S), World().runtime() as runtime:
        engine = await make_engine(runtime, echo(tiny_model))
        assert await run_input(runtime, f"batch:{file}", engine) == 1, "a line has failed"
        with pytest.raises(ConfigError, match="exists: move it away"):
            await run_input(runtime, f"batch:{file}", engine)
    records = [json.loads(line) for line in (tmp_path / "asked-output.jsonl").read_text().splitlines()]
    assert [record.get("text") for record in records] == ["one", "two", None]
    assert "3 requests in" in capsys.readouterr().out


async def test_a_batch_asks_the_workers_of_the_runtime(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"prompt": "one"}\n')
    world = World()
    async with asyncio.timeout(DEADLINE_S), world.runtime() as worker_runtime, world.runtime() as runtime:
        engine = await make_engine(worker_runtime, echo(tiny_model))
        worker = asyncio.create_task(run_input(worker_runtime, "dyn://zoo.birds.generate", engine))
        asker = await make_engine(runtime, EntrypointArgs(EngineType.Dynamic, model_name=tiny_model.name))
        assert await run_input(runtime, f"batch:{file}", asker) == 0
        worker_runtime.shutdown()
        await worker


async def test_a_runtime_that_shuts_down_stops_a_batch(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text(json.dumps({"prompt": "word " * 1000}) + "\n")
    async with asyncio.timeout(DEADLINE_S), World().runtime() as runtime:
        engine = await make_engine(runtime, echo(tiny_model, extra_engine_args={"token_delay_s": 1}))
        running = asyncio.create_task(run_input(runtime, f"batch:{file}", engine))
        while not (tmp_path / "asked-output.jsonl").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        runtime.shutdown()
        assert await running == 130


# In a program of one's own.

PROGRAM = """
import asyncio, logging, sys
from dynamo.llm import EngineType, EntrypointArgs, make_engine, run_input
from dynamo.runtime import DistributedRuntime, dynamo_worker

@dynamo_worker()
async def main(runtime: DistributedRuntime) -> int:
    port = {"http_port": 0} if sys.argv[1] == "http" else {}
    engine = await make_engine(runtime, EntrypointArgs(EngineType.Echo, model_path=sys.argv[2], **port))
    return await run_input(runtime, sys.argv[1], engine)

if sys.argv[1] == "http":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
sys.exit(asyncio.run(main()))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_of(tmp_path / "discovery")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_program_that_serves_after_its_requests(
    environment: dict[str, str], tiny_model: Path, number: signal.Signals
) -> None:
    ended = await signalled_amid_answer(
        ["-c", PROGRAM, "http", str(tiny_model)],
        environment,
        number,
        ready=r"ready: serving \S+ at (\S+)",
        path="/v1/completions",
        body={"model": tiny_model.name, "prompt": "one two three " * 20},
    )
    assert ended.last_line == "data: [DONE]"
    assert ended.status == 0
    assert "Traceback" not in ended.errors


# What is wrong.


@pytest.mark.parametrize(
    ("engine_type", "arguments", "kind", "says"),
    [
        ("echo", {}, TypeError, "engine_type='echo' is of type str: give EngineType.Echo"),
        (EngineType.Echo, {"model_path": None}, ConfigError, "model_path is missing: EngineType.Echo answers in"),
        (EngineType.Dynamic, {}, ConfigError, "model_path='m' has no effect with EngineType.Dynamic, it is for Echo"),
        (EngineType.Echo, {"model_path": 7}, TypeError, "model_path=7 is of type int: give a path, or None"),
        (EngineType.Echo, {"model_name": 7}, TypeError, "model_name=7 is of type int: give a str, or None"),
        (EngineType.Echo, {"http_port": 65536}, ConfigError, "http_port=65536: give an integer from 0 to 65535, or"),
        (EngineType.Echo, {"http_port": "80"}, TypeError, "http_port='80' is of type str: give an integer from 0"),
        (EngineType.Echo, {"insecure": 1}, TypeError, "insecure=1 is of type int: give True or False"),
        (EngineType.Echo, {"context_length": 0}, ConfigError, "context_length=0: give an integer of 1 or more, or"),
        (EngineType.Echo, {"migration_limit": 1025}, ConfigError, "migration_limit=1025: give an integer from 0 to"),
        (EngineType.Echo, {"kv_cache_block_size": 16}, ConfigError, "kv_cache_block_size=16 has no effect with"),
        (EngineType.Echo, {"namespace": "a"}, ConfigError, "namespace='a' has no effect with EngineType.Echo"),
        (EngineType.Echo, {"router_config": RouterConfig()}, ConfigError, "has no effect with EngineType.Echo"),
        (EngineType.Echo, {"router_config": "kv"}, TypeError, "router_config='kv' is of type str: give a RouterConfig"),
        (EngineType.Echo, {"endpoint_id": "a.b"}, InvalidArgument, "'a.b' is not an endpoint: write namespace.comp"),
        (EngineType.Echo, {"runtime_config": 3}, TypeError, "runtime_config=3 is of type int: give a ModelRuntime"),
        (EngineType.Echo, {"extra_engine_args": 3}, TypeError, "extra_engine_args=3 is of type int: give options by"),
        (EngineType.Echo, {"mocker_engine_args": {}}, ConfigError, "mocker_engine_args={} has no effect with"),
        (EngineType.Mocker, {"mocker_engine_args": {}, "extra_engine_args": {}}, ConfigError, "give one of them"),
        (EngineType.Echo, {"tls_cert_path": "a.pem"}, ConfigError, "tls_cert_path='a.pem' has no meaning here: it"),
        (EngineType.Echo, {"is_prefill": True}, ConfigError, "is_prefill=True has no meaning here: prefill and"),
        (EngineType.Echo, {"http_metrics_port": 0}, ConfigError, "http_metrics_port=0 has no meaning here: the metr"),
        (EngineType.Echo, {"http_prot": 1}, TypeError, "http_prot"),
        (EngineType.Echo, {"model_name": ""}, InvalidArgument, "'' is not a valid model_name: use letters"),
        (EngineType.Echo, {"model_name": "a b"}, InvalidArgument, "'a b' is not a valid model_name: use letters"),
        (EngineType.Dynamic, {"namespace": "a b", "model_path": None}, InvalidArgument, "is not a valid namespace"),
        (EngineType.Echo, {"runtime_config": {"taints": "x"}}, ConfigError, "taints is 'x': it must be a list"),
        (EngineType.Echo, {"runtime_config": {"total_kv_blocks": 0}}, ConfigError, "'total_kv_blocks' is 0; it must"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    engine_type: EngineType, arguments: dict[str, object], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as caught:
        EntrypointArgs(engine_type, **{"model_path": "m", **arguments})  # type: ignore[arg-type]
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"token_dely_s": 1}, ConfigError, "extra_engine_args has 'token_dely_s', which the engine has not: did you "
         "mean 'token_delay_s'? It has token_delay_s, tokens_per_second, max_num_seqs"),
        ({"token_delay_s": "1"}, TypeError, "extra_engine_args['token_delay_s']='1' is of type str: give a number, 0"),
        ({"max_num_seqs": 1.5}, TypeError, "extra_engine_args['max_num_seqs']=1.5 is of type float: give an integer"),
        ({"max_num_seqs": True}, TypeError, "extra_engine_args['max_num_seqs']=True is of type bool: give an integer"),
        ({"max_num_seqs": 0}, ConfigError, "max_num_seqs is 0: it must be 1 or more"),
        ({5: 1}, ConfigError, "extra_engine_args has 5, which the engine has not"),
        ({"model_path": "x"}, ConfigError, "extra_engine_args has 'model_path', which the engine has not"),
        ("/no/such.json", ConfigError, "extra_engine_args='/no/such.json' is no file with a JSON object: No such file"),
    ],
)  # fmt: skip
async def test_wrong_options_of_an_engine_are_refused_by_name(
    tiny_model: Path, options: dict[str, object], kind: type[Exception], says: str
) -> None:
    async with World().runtime() as runtime:
        with pytest.raises(kind) as caught:
            await make_engine(runtime, echo(tiny_model, extra_engine_args=options))
    assert says in str(caught.value)


async def test_the_options_of_an_engine_may_be_in_a_file(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    async with World().runtime() as runtime:
        file.write_text('{"tokens_per_second": 5}')
        engine = await make_engine(runtime, echo(tiny_model, extra_engine_args=file))
        assert (engine.engine_type, engine.model_name) == (EngineType.Echo, tiny_model.name)
        file.write_text("[]")
        with pytest.raises(ConfigError, match="is no file with a JSON object: Expected `object`, got `array`"):
            await make_engine(runtime, echo(tiny_model, extra_engine_args=str(file)))


async def test_what_cannot_be_made_is_said_before_anything_runs(tiny_model: Path) -> None:
    async with World().runtime() as runtime:
        with pytest.raises(NotFound, match="there is no model directory at '/no/such/model'"):
            await make_engine(runtime, echo(Path("/no/such/model")))
        with pytest.raises(ConfigError, match="context_length is 1000000000"):
            await make_engine(runtime, echo(tiny_model, context_length=10**9))
        with pytest.raises(NotFound, match=r"chat template /no/such\.jinja does not exist"):
            await make_engine(runtime, echo(tiny_model, template_file="/no/such.jinja"))
        with pytest.raises(TypeError, match="args='x' is of type str: give EntrypointArgs"):
            await make_engine(runtime, "x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="runtime=1 is of type int: give a DistributedRuntime"):
            await make_engine(1, echo(tiny_model))  # type: ignore[arg-type]
    with pytest.raises(DynamoError, match="has not joined yet"):
        await make_engine(World().runtime(), echo(tiny_model))


@pytest.mark.parametrize(
    ("input", "arguments", "kind", "says"),
    [
        ("grpc", {}, InvalidArgument, "input='grpc': give 'http', 'text', 'batch:FILE.jsonl' or 'dyn://"),
        ("batch:/no/file", {}, InvalidArgument, "input='batch:/no/file' names no file: give 'http'"),
        ("dyn://a.b", {}, InvalidArgument, "'dyn://a.b' is not an endpoint: write namespace.component.endpoint"),
        (1, {}, TypeError, "input=1 is of type int: give a str"),
        ("text", {"http_port": 0}, ConfigError, "http_port=0 has no effect with text: it is for http"),
        ("http", {"endpoint_id": "a.b.c"}, ConfigError, "endpoint_id='a.b.c' has no effect with http: it is for dyn"),
        ("http", {"migration_limit": 0}, ConfigError, "migration_limit=0 has no effect with http: it is for dyn"),
        ("dyn://a.b.d", {"endpoint_id": "a.b.c"}, ConfigError, "endpoint_id='a.b.c' and input='dyn://...' name two"),
        ("http", {"http_host": "0.0.0.0"}, ConfigError, "http_host=0.0.0.0 is reachable from other machines"),
        ("http", {"http_host": "0.0.0.0"}, ConfigError, "give insecure=True if the network around it is trusted"),
    ],
)
async def test_an_input_that_makes_no_sense_is_refused(
    tiny_model: Path, input: str, arguments: dict[str, object], kind: type[Exception], says: str
) -> None:
    async with World().runtime() as runtime:
        engine = await make_engine(runtime, echo(tiny_model, **arguments))
        with pytest.raises(kind) as caught:
            await run_input(runtime, input, engine)
    assert says in str(caught.value)


async def test_results_that_are_there_are_not_overwritten_and_no_option_of_a_command_is_named(
    tiny_model: Path, tmp_path: Path
) -> None:
    file, results = tmp_path / "asked.jsonl", tmp_path / "asked-output.jsonl"
    file.write_text('{"text": "hi"}\n')
    results.write_text("mine")
    async with World().runtime() as runtime:
        engine = await make_engine(runtime, echo(tiny_model))
        with pytest.raises(ConfigError) as caught:
            await run_input(runtime, f"batch:{file}", engine)
    assert str(caught.value) == f"input='batch:{file}': {str(results)!r} exists: move it away"
    assert results.read_text() == "mine"


async def test_workers_cannot_be_passed_on_and_their_model_not_be_named() -> None:
    async with World().runtime() as runtime:
        named = EngineConfig(EntrypointArgs(EngineType.Dynamic, model_name="parrot"), None)
        with pytest.raises(ConfigError, match="model_name='parrot' has no effect with http: it is for text and batch"):
            await run_input(runtime, "http", named)
        with pytest.raises(ConfigError, match=re.escape("input='dyn://...' with EngineType.Dynamic would pass")):
            await run_input(runtime, "dyn://a.b.c", named)


# What it costs.


def test_the_names_are_there_without_what_they_need() -> None:
    heavy = "{'torch', 'transformers', 'fastapi', 'grpc', 'kubernetes', 'starlette', 'uvicorn', 'tokenizers'}"
    script = f"import sys, dynamo.llm, dynamo.entrypoint, dynamo.frontend; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


def test_the_names_of_the_door_are_those_of_its_stub() -> None:
    from dynamo.llm import _entrypoint_door

    assert _entrypoint_door.__file__ is not None
    stub = Path(_entrypoint_door.__file__).with_suffix(".pyi").read_text()
    assert set(re.findall(r" as (\w+)", stub)) == set(vars(_entrypoint_door)["_LAZY"])
    for name in vars(_entrypoint_door)["_LAZY"]:
        assert getattr(_entrypoint_door, name) is not None
