"""The plan: what is decided before anything starts, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from dynamo._core.errors import WrongUsage
from dynamo.runtime import DynamoError
from dynamo.sdk import service
from dynamo.sdk._config import merged_config
from dynamo.sdk._console import Console
from dynamo.sdk._effective import show
from dynamo.sdk._outline import Outline, outline_of
from dynamo.sdk._plan import HttpAddress, Plan, make_plan
from dynamo.sdk._service import Service


@service(dynamo={"namespace": "test"}, resources={"gpu": 1}, workers=2, envs=[{"name": "MODE", "value": "x"}])
class Worker:
    def __init__(self, model_name: str, temperature: float = 0.7, api_key: str = "none") -> None: ...


@service
class Other: ...


def outline(*services: object, http: bool = False) -> Outline:
    outlines = []
    for each in services:
        assert isinstance(each, Service)
        outlines.append(outline_of(each))
    if http:
        import msgspec

        outlines[0] = msgspec.structs.replace(outlines[0], has_http=True)
    names = [each.name for each in outlines]
    return Outline(outlines, [[name] for name in reversed(names)], [*names, "Removed"])


def plan(
    *overrides: str,
    graph: Outline | None = None,
    file: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    service_name: str | None = None,
    **environment: str,
) -> Plan:
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", **environment}
    config = merged_config(None if file is None else str(file), environment, overrides)
    graph = graph or outline(Worker)
    return make_plan("g:G", ".", graph, config, environment, host=host, port=port, service_name=service_name)


def refused(*overrides: str, **options: object) -> str:
    with pytest.raises(DynamoError) as raised:
        plan(*overrides, **options)  # type: ignore[arg-type]
    return raised.value.message


# GPUs.


def test_a_worker_gets_its_variables_and_its_gpus_each_time_the_same() -> None:
    [worker] = plan("Worker.model_name=m").services
    assert worker.environment_of(1) == {"MODE": "x", "CUDA_VISIBLE_DEVICES": "0"}
    assert worker.environment_of(2) == worker.environment_of(2) == {"MODE": "x", "CUDA_VISIBLE_DEVICES": "1"}


def test_a_service_without_gpus_keeps_what_it_finds() -> None:
    [other] = plan(graph=outline(Other)).services
    assert other.environment_of(1) == {}


def test_the_devices_that_a_service_names_itself_win_and_are_not_taken_from_the_others() -> None:
    @service(resources={"gpu": 1}, workers=2)
    class Second: ...

    graph = outline(Worker, Second)
    planned = plan("Worker.model_name=m", "Second.x=1", graph=graph, CUDA_VISIBLE_DEVICES="4,5,6,7").services
    assert [each.gpus for each in planned] == [("4", "5"), ("6", "7")]

    @service(resources={"gpu": 1}, envs=[{"name": "CUDA_VISIBLE_DEVICES", "value": "9"}])
    class Fixed: ...

    [fixed, worker] = plan("Worker.model_name=m", graph=outline(Fixed, Worker)).services
    assert fixed.environment_of(1) == {"CUDA_VISIBLE_DEVICES": "9"}
    assert worker.gpus == ("0", "1")


def test_too_few_gpus_are_an_error_and_no_usage_error() -> None:
    with pytest.raises(DynamoError, match="Worker wants 1 GPU for each of its 2 workers, but of the 1 that") as raised:
        plan("Worker.model_name=m", CUDA_VISIBLE_DEVICES="3")
    assert not isinstance(raised.value, WrongUsage)
    assert plan("Worker.model_name=m", CUDA_VISIBLE_DEVICES="3", DYN_DISABLE_AUTO_GPU_ALLOCATION="1").services


def test_only_the_service_that_runs_takes_gpus() -> None:
    graph = outline(Other, Worker)
    [worker] = plan("Worker.model_name=m", graph=graph, service_name="Worker").services
    assert worker.gpus == ("0", "1")
    assert plan(graph=graph, service_name="Other", CUDA_VISIBLE_DEVICES="").services[0].gpus == ()


def test_a_list_that_is_cut_short_is_a_warning() -> None:
    assert plan("Worker.model_name=m", CUDA_VISIBLE_DEVICES="0,1,x").warnings == [
        "CUDA_VISIBLE_DEVICES=0,1,x: 'x' is no device, so CUDA ignores it and all that follows"
    ]


# What is wrong, with where it was written.


def test_every_mistake_of_a_configuration_is_one_line_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("Worker:\n  temperature: hot\n  host: 5\n  port: 99999\nWorkr:\n  x: 1\n")
    message = refused(file=file, graph=outline(Worker, http=True))
    assert message.splitlines() == [
        f"{file}:5: Workr: unknown service 'Workr'; did you mean 'Worker'?",
        f"{file}:2: Worker.temperature: must be a number, not 'hot'",
        "Worker cannot be built without 'model_name': set it with --Worker.model_name=VALUE",
        f"{file}:3: Worker.host: must be an address to listen on, not 5",
        f"{file}:4: Worker.port: must be a number from 0 to 65535, not 99999",
    ]


def test_a_mistake_of_the_command_line_names_the_option() -> None:
    assert (
        refused("Worker.model_name=m", "Worker.temperature=hot") == "--Worker.temperature: must be a number, not 'hot'"
    )
    assert (
        refused("Worker.model_name=m", "Workr.x.y=1") == "--Workr.x.y: unknown service 'Workr'; did you mean 'Worker'?"
    )


def test_a_mistake_of_a_service_that_does_not_run_here_is_not_told() -> None:
    assert plan(graph=outline(Other, Worker), service_name="Other").services[0].name == "Other"


def test_a_number_typed_for_a_parameter_that_is_text_is_the_text_that_was_typed() -> None:
    chosen = plan("Worker.model_name=007", "Worker.temperature=1")
    assert chosen.config["Worker"] == {"model_name": "007", "temperature": 1}
    assert chosen.config.source_of("Worker", "model_name") == "--Worker.model_name"


def test_a_number_written_in_a_file_for_a_parameter_that_is_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("Worker:\n  model_name: 8\n")
    assert "must be text, not 8; write it in quotes" in refused(file=file)


def test_what_has_no_effect_is_a_warning_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "Worker:\n  model_name: m\n  tempereture: 1\n  common-configs: [model, seed]\n  seed: 1\nRemoved:\n  x: 1\n"
        "Common:\n  ServiceArgs: {workers: 2}\n"
    )
    assert plan(file=file, port=80).warnings == [
        f"{file}:6: Removed: g:G does not run Removed",
        f"{file}:9: Common.ServiceArgs: these apply to no service: only its values are common",
        f"{file}:3: Worker.tempereture: this is no parameter of Worker; is 'temperature' meant?",
        f"{file}:4: Worker.common-configs: Common has no model",
        "--host and --port have no effect: no service of this graph serves HTTP",
    ]


def test_the_configuration_of_a_deployment_is_a_warning() -> None:
    text = '{"Worker": {"model_name": "m"}}'
    assert plan("Worker.model_name=n", DYN_DEPLOYMENT_CONFIG=text).warnings == [
        "the configuration is taken from DYN_DEPLOYMENT_CONFIG alone, and not from --Worker.model_name"
    ]


def test_a_missing_value_may_come_from_common(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("Common:\n  model_name: m\nWorker:\n  common-configs: [model_name]\n")
    assert plan(file=file).warnings == []


# What a dry run shows.


def shown(made: Plan) -> list[str]:
    out = io.BytesIO()
    show(made, Console(out, io.BytesIO(), {}))
    return out.getvalue().decode().splitlines()


def section_of(lines: list[str], name: str) -> list[str]:
    start = lines.index(f"{name}:") + 1
    return [line.strip() for line in lines[start : lines.index("", start)]]


def test_every_effective_value_is_shown_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "Common:\n  temperature: 0.5\nWorker:\n  ServiceArgs:\n    resources: {memory: 20Gi}\n    dynamo:\n"
        "      custom_lease: {ttl: 5}\n  common-configs: [temperature]\n  model-name: m\n"
        "  extra:\n    deep: [1]\n    none: {}\n"
    )
    graph = outline(Worker, http=True)
    lines = shown(plan("Worker.ServiceArgs.workers=1", file=file, graph=graph, port=9000, DYNAMO_PORT="9000"))
    assert "  Worker: 2 workers, http://127.0.0.1:9000, GPUs 0 | 1" in lines  # the decorator of this test came first
    assert [line for line in section_of(lines, "Worker") if not line.startswith(("resources.memory", "workers"))] == [
        'dynamo.namespace = "test"   (@service)',
        "resources.gpu = 1   (@service)",
        'envs.MODE = "x"   (@service)',
        'model_name = "m"   ' + f"({file}:9)",
        f"temperature = 0.5   ({file}:2)",
        'api_key = "***"   (constructor default)',
        f"extra.deep = [1]   ({file}:11)",
        f"extra.none = {{}}   ({file}:12)",
        "port = 9000   (DYNAMO_PORT)",
        'host = "127.0.0.1"   (default)',
    ]


def test_what_nobody_has_said_is_shown_as_a_default() -> None:
    assert section_of(shown(plan(graph=outline(Other))), "Other") == [
        'dynamo.namespace = "default"   (default)',
        "workers = 1   (default)",
    ]


def test_secrets_are_shown_nowhere() -> None:
    made = plan("Worker.model_name=m", "Worker.api_key=sk-123", 'Worker.db={"password": "sk-123"}')
    lines = shown(made)
    assert "sk-123" not in "\n".join(lines)
    assert 'api_key = "***"   (--Worker.api_key)' in section_of(lines, "Worker")
    assert 'db.password = "***"   (--Worker.db)' in section_of(lines, "Worker")
    assert json.loads(made.environment["DYNAMO_SERVICE_CONFIG"])["Worker"]["api_key"] == "sk-123"


def test_an_address_may_be_common_and_is_shown_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("Common: {host: '::1', port: 70}\nWorker:\n  common-configs: [host, port]\n  model_name: m\n")
    made = plan(file=file, graph=outline(Worker, http=True))
    assert made.services[0].http == HttpAddress("::1", 70)
    assert f'host = "::1"   ({file}:1)' in section_of(shown(made), "Worker")
    file.write_text("Common: {port: x}\nWorker:\n  common-configs: [port]\n  model_name: m\n")
    problem = refused(file=file, graph=outline(Worker, http=True))
    assert problem == f"{file}:1: Common.port: must be a number from 0 to 65535, not 'x'"


def test_the_address_of_the_command_line_wins() -> None:
    graph = outline(Worker, http=True)
    [worker] = plan("Worker.model_name=m", "Worker.port=1", graph=graph, host="::1", port=0).services
    assert worker.http == HttpAddress("::1", 0)


def test_a_variable_for_the_address_wins_over_the_file_and_yields_to_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("Worker:\n  port: 70\n  model_name: m\n")
    graph = outline(Worker, http=True)
    made = plan(file=file, graph=graph, port=80, DYNAMO_PORT="80")
    assert made.services[0].http == HttpAddress("127.0.0.1", 80)
    assert "port = 80   (DYNAMO_PORT)" in section_of(shown(made), "Worker")
    made = plan("Worker.port=90", file=file, graph=graph, port=80, DYNAMO_PORT="80")
    assert made.services[0].http == HttpAddress("127.0.0.1", 90)
    assert "port = 90   (--Worker.port)" in section_of(shown(made), "Worker")


def test_an_argument_of_the_decorator_that_stands_beside_service_args_is_a_warning() -> None:
    assert plan("Worker.model_name=m", "Worker.workers=5").warnings == [
        "--Worker.workers: this changes no argument of @service; is ServiceArgs.workers meant?"
    ]
