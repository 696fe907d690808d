"""What the operator of a worker may say of it: its taints, and how strong its device is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.llm.scene import BOTH, MODEL, World

from dynamo._core.errors import ConfigError
from dynamo.echo import EchoWorker
from dynamo.llm import ModelInput, register_llm
from dynamo.llm._model_card import ModelCard
from dynamo.llm._worker_labels import TAINT_CHARS_MAX, TAINTS_MAX, worker_labels
from dynamo.llm._worker_options import WorkerOptions
from dynamo.mocker import MockerWorker
from dynamo.runtime._settings import read_settings
from dynamo.transformers import TransformersWorker
from dynamo.vllm import VllmWorker


def read(*arguments: str, **environ: str) -> WorkerOptions:
    return read_settings(WorkerOptions, ["--model-path=m", *arguments], environ, prog="prog", description="")


def test_labels_are_flags_and_variables() -> None:
    assert read("--taints=h100,eu,h100", "--device-weight", "2").labels() == {
        "taints": ["h100", "eu"],
        "device_weight": 2.0,
    }
    assert read(DYN_TAINTS="h100", DYN_DEVICE_WEIGHT="0.5").labels() == {"taints": ["h100"], "device_weight": 0.5}
    assert read().labels() == {}


@pytest.mark.parametrize("worker", [MockerWorker, TransformersWorker, VllmWorker, EchoWorker])
def test_every_worker_of_a_graph_takes_them_as_a_list_or_as_flags_do(
    worker: type[MockerWorker | TransformersWorker | VllmWorker | EchoWorker],
) -> None:
    expected = {"taints": ["h100", "eu"], "device_weight": 2.0}
    assert worker("m", taints=["h100", "eu"], device_weight=2).labels == expected
    assert worker("m", taints="h100,eu", device_weight=2.0).labels == expected
    assert worker("m").labels == {}
    with pytest.raises(ConfigError, match="taints has 'a b'"):
        worker("m", taints=["a b"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--taints=h100,,eu"], "taints has '': each is 1 to 256 visible ASCII characters without a comma, such as"),
        (["--taints=h100, eu"], "taints has ' eu'"),
        (["--taints=größe"], "taints has 'größe'"),
        ([f"--taints={'a' * (TAINT_CHARS_MAX + 1)}"], "taints has 'aaa"),
        (["--taints=" + ",".join(map(str, range(TAINTS_MAX + 1)))], "taints are 65: a worker has 64 at most"),
        (["--device-weight=0"], "--device-weight is 0.0: it must be from 0.001 to 1000.0"),
        (["--device-weight=nan"], "--device-weight is nan"),
        (["--device-weight=heavy"], "--device-weight='heavy' is not a number"),
    ],
)
def test_labels_that_make_no_sense_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*arguments)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("taints", [7, {"a": 1}, [7], [None], ["a,b"]])
def test_what_a_configuration_says_instead_of_taints_is_refused(taints: object) -> None:
    with pytest.raises(ConfigError, match=r"^taints "):
        worker_labels(taints, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"taints": "h100"}, "taints is 'h100': it must be a list of labels"),
        ({"taints": ["a b"]}, "taints has 'a b'"),
        ({"device_weight": "2"}, "device_weight is '2': it must be a number from 0.001 to 1000"),
        ({"device_weight": True}, "device_weight is True"),
        ({"device_weight": -1}, "device_weight is -1"),
        ({"device_weight": 10**400}, "device_weight is 1000"),
        ({"device_weight": 10**5000}, "device_weight is <int that cannot be shown: ValueError>"),
        ({"taints": 10**5000}, "taints is <int that cannot be shown: ValueError>"),
    ],
)
async def test_a_worker_of_your_own_is_not_registered_with_labels_that_no_router_understands(
    tiny_model: Path, labels: dict[str, object], words: str
) -> None:
    world = World()
    async with world.runtime() as runtime:
        endpoint = runtime.endpoint("test.worker.generate")
        with pytest.raises(ConfigError) as caught:
            await register_llm(ModelInput.Tokens, BOTH, endpoint, str(tiny_model), MODEL, runtime_config=labels)
        assert words in str(caught.value)
        assert await runtime.discovery.get_prefix(endpoint.id.model_card_key(endpoint.lease_id())) == {}


async def test_the_model_card_has_them(tiny_model: Path) -> None:
    world = World()
    async with world.runtime() as runtime:
        endpoint = runtime.endpoint("test.worker.generate")
        labels = worker_labels("h100,eu", 2.0)
        await register_llm(ModelInput.Tokens, BOTH, endpoint, str(tiny_model), MODEL, runtime_config=labels)
        key = endpoint.id.model_card_key(endpoint.lease_id())
        card = ModelCard.from_json((await runtime.discovery.get_prefix(key))[key])
    assert card.runtime_config == {"taints": ["h100", "eu"], "device_weight": 2.0}
