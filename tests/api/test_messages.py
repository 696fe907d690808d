"""Every message has a tier: whatever class of values is defined travels and is marked, or stays and says where."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import msgspec
import pydantic
import pytest
from scripts._api.others import MESSAGE_MODULES, messages
from tests.api.modules import all_modules

from dynamo._core.stability import Tier, stability_of

#: The modules whose values do not travel between releases of ours, and what becomes of them. Below one of them is all
#: that is in it.
STAYS = {
    "dynamo._core._token_words": "converts numbers within a process",
    "dynamo._core.discovery._etcd_answers": "what etcd says",
    "dynamo._core.discovery._etcd_follow": "what etcd says",
    "dynamo._core.discovery._etcd_gateway": "what etcd says",
    "dynamo._core.discovery._etcd_lease": "what etcd says",
    "dynamo._core.wire": "reads the number of a message",
    "dynamo.cli": "reads what messages hold",
    "dynamo.entrypoint": "reads what messages hold, and files of results",
    "dynamo.frontend._route": "what other servers say",
    "dynamo.llm._choice": "between the steps of a request in a process",
    "dynamo.llm._contracts": "the base of messages",
    "dynamo.llm._entrypoint_backend": "between the steps of a request in a process",
    "dynamo.llm._kv_radix_tree": "reads an event",
    "dynamo.llm._kv_recorder": "a file of a recorder",
    "dynamo.llm._kv_vllm_events": "what vLLM says",
    "dynamo.llm._model_config": "what a worker is told by its program",
    "dynamo.llm._model_files": "files of models",
    "dynamo.llm._model_integrity": "files of models",
    "dynamo.llm._plain_model": "what a worker is told by its program",
    "dynamo.llm._request_trace": "a file of traces",
    "dynamo.replay": "files of traces and reports",
    "dynamo.sdk": "between dynamo serve and its workers, which are of one release",
}


def classes(kind: type) -> Iterator[type]:
    derived: type
    for derived in kind.__subclasses__():
        yield derived
        yield from classes(derived)


@pytest.fixture(scope="module")
def defined() -> list[type]:
    """Every class of values of ours; what is derived from another one at run time is that one in another form."""
    for module in all_modules():
        importlib.import_module(module)
    found = {kind for base in (msgspec.Struct, pydantic.BaseModel) for kind in classes(base)}
    return sorted((kind for kind in found if is_defined(kind)), key=lambda kind: (kind.__module__, kind.__qualname__))


def is_defined(kind: type) -> bool:
    if not kind.__module__.startswith("dynamo."):
        return False
    # The module of an example of another test is gone by now.
    return getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def reason(kind: type) -> str | None:
    return next((why for module, why in STAYS.items() if f"{kind.__module__}.".startswith(f"{module}.")), None)


def test_every_message_is_marked_and_what_is_not_marked_stays(defined: list[type]) -> None:
    unknown = [
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in defined
        if stability_of(kind) is None and reason(kind) is None
    ]
    assert unknown == [], "mark it with @stable or @beta and name its module in scripts/_api/others.py, or add to STAYS"


def test_every_module_of_messages_is_looked_into(defined: list[type]) -> None:
    marked = {kind.__module__ for kind in defined if stability_of(kind) is not None and reason(kind) is None}
    public = {"dynamo.llm._kv_router.policy_class", "dynamo.llm._model_config"}
    assert marked - public == set(MESSAGE_MODULES) - {"dynamo._core.wire"}


def test_the_frames_of_the_request_plane_are_stable() -> None:
    tiers = {kind.__name__: stability_of(kind) for kind in messages() if kind.__module__ == "dynamo._core.wire"}
    assert set(tiers) == {
        "Hello", "Request", "Items", "Final", "Error", "Cancel", "Credit", "Heartbeat", "Proof"
    }  # fmt: skip
    assert {mark.tier for mark in tiers.values() if mark is not None} == {Tier.STABLE}
