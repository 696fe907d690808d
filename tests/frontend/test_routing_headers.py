"""What requests say of where they are to go, in headers and in `nvext`."""

from __future__ import annotations

import pytest
from pydantic import JsonValue, ValidationError
from tests.frontend.scene import CHAT, FakeModels, client_of, pipeline_of

from dynamo._core.errors import InvalidArgument
from dynamo.frontend._app import create_app
from dynamo.frontend._routing_headers import hints_of
from dynamo.llm._nvext import NvExt
from dynamo.llm._routing import NO_HINTS, RouterConfigOverride, RoutingConstraints, RoutingHints


def hints(headers: dict[str, str], nvext: dict[str, JsonValue] | None = None) -> RoutingHints:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return hints_of(raw, None if nvext is None else NvExt.model_validate(nvext))


def test_a_request_that_says_nothing_has_no_hints() -> None:
    assert hints({"host": "here", "x-request-id": "1", "x-stainless-os": "Linux"}) is NO_HINTS
    assert hints({}, {}) is NO_HINTS
    assert not NO_HINTS.need_route


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        ("x-dynamo-worker-instance-id", "18446744073709551615", RoutingHints(pinned_instance=2**64 - 1)),
        ("x-dynamo-instance-id", "0xFf", RoutingHints(pinned_instance=255)),
        ("x-worker-instance-id", "7", RoutingHints(pinned_instance=7)),
        ("x-dynamo-dp-rank", "0", RoutingHints(pinned_dp_rank=0)),
        ("x-dp-rank", "1", RoutingHints(pinned_dp_rank=1)),
        ("x-data-parallel-rank", "1023", RoutingHints(pinned_dp_rank=1023)),
        ("x-dynamo-request-priority", "-5", RoutingHints(priority_jump=-5.0)),
        ("x-dynamo-request-strict-priority", "2", RoutingHints(strict_priority=2)),
        ("x-dynamo-session-id", "a b".replace(" ", "-"), RoutingHints(session_id="a-b")),
        ("x-dynamo-meta-policy-class", "batch", RoutingHints(policy_class="batch")),
    ],
)
def test_every_header_says_its_own(header: str, value: str, expected: RoutingHints) -> None:
    assert hints({header: value}) == expected


def test_the_body_says_the_same_and_more() -> None:
    said = hints(
        {},
        {
            "backend_instance_id": 5,
            "dp_rank": 1,
            "agent_hints": {"priority": 3, "strict_priority": 1},
            "routing_constraints": {"required_taints": ["gpu"], "preferred_taints": {"eu": 1.0}},
            "router_config_override": {"router_temperature": 0.5},
        },
    )
    assert said == RoutingHints(
        pinned_instance=5,
        pinned_dp_rank=1,
        priority_jump=3.0,
        strict_priority=1,
        constraints=RoutingConstraints(frozenset(["gpu"]), {"eu": 1.0}),
        override=RouterConfigOverride(router_temperature=0.5),
    )
    assert said.need_route


@pytest.mark.parametrize("id", [2**63 + 1, "9223372036854775809", "0x8000000000000001", "0X8000000000000001"])
def test_an_instance_in_the_body_is_a_number_or_a_text_for_those_whose_numbers_are_floats(id: JsonValue) -> None:
    assert hints({}, {"backend_instance_id": id}).pinned_instance == 2**63 + 1


@pytest.mark.parametrize("id", ["7a", "", "-1", "1.0", "0x", "0x1" + 16 * "0", str(2**64), 2**64, -1, 1.0, True])
def test_an_instance_in_the_body_that_is_none_is_refused(id: JsonValue) -> None:
    with pytest.raises(ValidationError, match="backend_instance_id"):
        hints({}, {"backend_instance_id": id})


@pytest.mark.parametrize("value", ["1", "true"])
def test_an_explanation_is_asked_for_in_the_header_or_in_the_body(value: str) -> None:
    assert hints({"x-dynamo-explain": value}).explanation is not None
    assert hints({}, {"explain": True}).explanation is not None
    assert hints({"x-dynamo-explain": "0"}).explanation is None
    assert hints({}, {"explain": False}).explanation is None


@pytest.mark.parametrize(
    ("header", "value", "words"),
    [
        (
            "x-dynamo-instance-id",
            "five",
            "must be the id of an instance, a whole number or hexadecimal behind 0x, not 'five'",
        ),
        ("x-dynamo-instance-id", "7a", "must be the id of an instance, .* not '7a'"),
        ("x-dynamo-instance-id", "-1", "must be the id of an instance"),
        ("x-dynamo-instance-id", "18446744073709551616", "must be the id of an instance"),
        ("x-dynamo-instance-id", "", "must be the id of an instance"),
        ("x-dynamo-instance-id", "1" * 5000, "must be the id of an instance"),
        ("x-dynamo-dp-rank", "1024", "must be a whole number from 0 to 1023"),
        ("x-dynamo-request-priority", "1.5", "must be a whole number"),
        ("x-dynamo-session-id", "a b", "must be 1 to 256 visible characters"),
        ("x-dynamo-explain", "maybe", "must be 1 or 0, not 'maybe'"),
        ("x-dynamo-routing-mode", "kv", "is not served yet: leave it out"),
        ("x-dynamo-meta-color", "red", "is not served yet: leave it out"),
        ("x-dynamo-anything", "1", "is not known: leave it out"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_by_name(header: str, value: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"the header {header} {words}") as caught:
        hints({header: value})
    assert caught.value.details["param"] == header
    assert len(str(caught.value)) < 300


def test_contradictions_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="the headers x-dp-rank and x-dynamo-dp-rank differ"):
        hints({"x-dp-rank": "1", "x-dynamo-dp-rank": "2"})
    with pytest.raises(InvalidArgument, match="the header x-dp-rank and the body's 'nvext' differ"):
        hints({"x-dp-rank": "1"}, {"dp_rank": 2})
    assert hints({"x-dp-rank": "1", "x-dynamo-dp-rank": "1"}, {"dp_rank": 1}).pinned_dp_rank == 1


async def test_the_pipeline_gets_the_hints_and_a_wrong_one_is_a_400() -> None:
    pipeline = pipeline_of([b"{}"])
    async with client_of(create_app(FakeModels(pipeline))) as client:
        await client.post("/v1/chat/completions", json=CHAT, headers={"x-dynamo-session-id": "mine"})
        wrong = await client.post("/v1/chat/completions", json=CHAT, headers={"x-dynamo-dp-rank": "x"})
    assert pipeline.hints == [RoutingHints(session_id="mine")]
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-dynamo-dp-rank")
