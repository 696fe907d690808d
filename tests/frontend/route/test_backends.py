"""Which servers a request may go to, by what was seen of them; no sockets, and a clock of its own."""

from __future__ import annotations

import pytest

from dynamo.frontend._route.addresses import BackendAddress
from dynamo.frontend._route.backends import MODELS_MAX, REST_S, REST_S_MAX, Backends
from dynamo.runtime._quarantine import PROBE_AFTER_S, Fault

MODEL: dict[str, object] = {"id": "m"}


def three() -> Backends:
    return Backends([BackendAddress(f"http://{name}") for name in ("a", "b", "c")])


def test_all_come_into_question_that_were_not_tried() -> None:
    backends = three()
    assert backends.candidates(None, (), 0.0) == [1, 2, 3]
    assert backends.candidates("m", {2}, 0.0) == [1, 3]
    assert backends.candidates("m", {1, 2, 3}, 0.0) == []


def test_those_that_list_the_model_come_first_and_all_do_if_nobody_does() -> None:
    backends = three()
    backends[2].models = {"m": MODEL}
    assert backends.candidates("m", (), 0.0) == [2]
    assert backends.candidates("other", (), 0.0) == [1, 2, 3]
    assert backends.candidates("m", {2}, 0.0) == []


def test_one_that_fails_is_out_until_a_single_probe() -> None:
    backends = three()
    backends.note_fault(1, Fault.UNREACHABLE, "why", 0.0, is_probe=False)
    assert backends.candidates(None, (), 0.0) == [2, 3]
    assert not backends[1].is_well
    assert backends.candidates(None, (), PROBE_AFTER_S) == [1, 2, 3]
    assert backends.quarantine.begin(1, PROBE_AFTER_S)
    assert backends.candidates(None, (), PROBE_AFTER_S) == [2, 3]


def test_an_answer_frees_one_unless_it_is_older_than_the_fault() -> None:
    backends = three()
    before = backends.quarantine.mark
    backends.note_fault(1, Fault.LOST, "why", 0.0, is_probe=False)
    backends.note_answer(1, before)
    assert backends[1].why_out == "why"
    backends.note_answer(1, backends.quarantine.mark)
    assert backends[1].is_well


def test_one_that_wants_rest_gets_it_and_not_too_much_of_it() -> None:
    backends = three()
    backends.note_rest(1, None, 0.0)
    backends.note_rest(2, 1e9, 0.0)
    assert backends.candidates(None, (), 0.0) == [3]
    assert backends.rests_s(0.0) == REST_S
    assert backends.candidates(None, (), REST_S) == [1, 3]
    assert backends.candidates(None, (), REST_S_MAX) == [1, 2, 3]


def test_a_server_that_lists_too_many_models_is_known_by_the_first_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backends = three()
    many = {f"m{number}": MODEL for number in range(MODELS_MAX + 1)}
    for _ in range(3):
        backends.note_models(1, many)
    assert list(backends.models()) == list(many)[:MODELS_MAX]
    (said,) = caplog.messages
    assert said == f"http://a lists {MODELS_MAX + 1} models, of which the first {MODELS_MAX} are known here"


def test_an_adapter_is_known_by_the_model_that_it_belongs_to() -> None:
    backends = three()
    backends[3].models = {"m": MODEL, "lora": {"id": "lora", "parent": "m"}}
    assert backends.is_adapter("lora")
    assert not backends.is_adapter("m")
    assert not backends.is_adapter("unknown")
