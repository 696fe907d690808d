"""The engines as bases of services of a graph: what becomes of one that other workers of its model differ from."""

from __future__ import annotations

import pytest

from dynamo._core.errors import ConfigError
from dynamo.echo import EchoWorker
from dynamo.mocker import MockerWorker
from dynamo.transformers import TransformersWorker
from dynamo.vllm import VllmWorker

Worker = type[EchoWorker] | type[MockerWorker] | type[TransformersWorker] | type[VllmWorker]


@pytest.mark.parametrize("worker", [EchoWorker, MockerWorker, TransformersWorker, VllmWorker])
def test_it_is_refused_unless_the_configuration_says_that_it_waits(worker: Worker) -> None:
    assert worker("model").on_conflict == "refuse"
    assert worker("model", on_conflict="wait").on_conflict == "wait"
    with pytest.raises(ConfigError, match="on_conflict='win': give 'refuse' or 'wait'"):
        worker("model", on_conflict="win")
