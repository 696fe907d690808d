"""The options of a service: what may be written, and what is said about what may not."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.runtime import DynamoError
from dynamo.sdk._options import LeaseConfig, ServiceOptions, option_problems, parse_options


def test_as_many_workers_as_processors_can_be_asked_for() -> None:
    workers = parse_options("here", {"workers": "cpu_count"}).workers
    assert 1 <= workers <= (os.cpu_count() or 1)


def test_a_custom_lease_is_written_as_a_mapping_or_as_an_object() -> None:
    assert parse_options("here", {"dynamo": {"custom_lease": {"ttl": 3}}}).dynamo.custom_lease == LeaseConfig(ttl=3)
    assert parse_options("here", {"dynamo": {"custom_lease": LeaseConfig()}}).dynamo.custom_lease == LeaseConfig(ttl=1)
    assert parse_options("here", {"dynamo": {}}).dynamo.custom_lease is None


def test_a_component_may_have_a_type() -> None:
    assert parse_options("here", {"dynamo": {"component_type": "planner"}}).dynamo.component_type == "planner"


def test_options_override_key_by_key_also_in_a_lease() -> None:
    declared = parse_options(
        "here", {"dynamo": {"namespace": "a", "custom_lease": {"ttl": 3}}, "resources": {"gpu": "2"}}
    )
    merged = declared.overridden_by(
        parse_options("here", {"dynamo": {"namespace": "b"}, "resources": {"memory": "1Gi"}})
    )
    assert merged.dynamo.custom_lease == LeaseConfig(ttl=3)
    assert merged.model_dump(exclude_unset=True)["resources"] == {"gpu": 2, "memory": "1Gi"}


@pytest.mark.parametrize("gpu", ["1", 1, 1.0, 4, 0.5, "0.25", 0, None])
def test_gpus_are_whole_or_a_share_of_one_as_number_or_text(gpu: object) -> None:
    options = ServiceOptions.model_validate({"resources": {"gpu": gpu}})
    assert options.resources.gpu == (None if gpu is None else float(str(gpu)))


@pytest.mark.parametrize(
    "raw",
    [
        {"resources": {"cpu": None, "memory": None, "gpu": None}},
        {"traffic": {"timeout": None}},
        {"image": None},
        {"dynamo": {"name": None, "component_type": None, "custom_lease": None}},
    ],
)
def test_null_is_what_is_not_said(raw: dict[str, object]) -> None:
    assert parse_options("here", raw) == ServiceOptions()


@pytest.mark.parametrize(
    ("raw", "path", "problem"),
    [
        ({"resources": {"gpu": 1.5}}, "resources.gpu", "1.5 is not supported: a share of a GPU is below 1"),
        ({"resources": {"gpu": "many"}}, "resources.gpu", "Invalid GPU format: 'many'; write a number such as 2"),
        ({"resources": {"gpu": True}}, "resources.gpu", "Invalid GPU format: True"),
        ({"resources": {"gpu": -1}}, "resources.gpu", "must be at least 0, not -1"),
        ({"resources": {"gpu": float("inf")}}, "resources.gpu", "must be a finite number, not inf"),
        ({"resources": {"gpu": 10**400}}, "resources.gpu", "Invalid GPU format: 1000"),
        ({"dynamo": {"custom_lease": {"ttl": 0}}}, "dynamo.custom_lease.ttl", "must be more than 0, not 0"),
        ({"dynamo": {"custom_lease": {"tll": 1}}}, "dynamo.custom_lease.tll", "unknown key 'tll'; did you mean 'ttl'?"),
        ({"dynamo": {"component_type": "a b"}}, "dynamo.component_type", "'a b' is not a valid name"),
        ({"traffic": {"concurrency": 5}}, "traffic.concurrency", "unknown key 'concurrency'; known are: timeout"),
        ({"workers": "all"}, "workers", "must be a whole number, not 'all'"),
        ({"workers": 0}, "workers", "must be at least 1, not 0"),
        ({"resource": {}}, "resource", "unknown key 'resource'; did you mean 'resources'?"),
        ({"envs": [{"name": "A", "value": 1}, {"name": "A", "value": 2}]}, "envs", "'A' is no name, or stands twice"),
        ({"workers": 5000}, "workers", "must be at most 1024, not 5000"),
        ({"workers": 2.5}, "workers", "must be a whole number, not 2.5"),
        ({"workers": True}, "workers", "must be a whole number, not True"),
        ({"dynamo": {"enabled": "maybe"}}, "dynamo.enabled", "must be true or false, not 'maybe'"),
        ({"image": 5}, "image", "must be text, not 5; write it in quotes"),
        ({"image": ["a"]}, "image", "must be text, not ['a']"),
        ({"labels": {"api_key": 5}}, "labels.api_key", "must be text, not '***'; write it in quotes"),
        ({"traffic": {"timeout": "soon"}}, "traffic.timeout", "must be a number, not 'soon'"),
        ({"dynamo": 5}, "dynamo", "must be a mapping, not 5"),
        ({"workers": {1: 2}}, "workers", "must be a whole number, not {1: 2}"),
        ({"envs": "A=1"}, "envs", "must be a mapping, not 'A=1'"),
    ],
)
def test_what_is_wrong_is_said_with_the_keys_that_lead_to_it(raw: dict[str, object], path: str, problem: str) -> None:
    [(keys, found)] = option_problems(raw)
    assert ".".join(keys) == path
    assert found.startswith(problem)
    with pytest.raises(DynamoError, match=r"^here: "):
        parse_options("here", raw)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("cpu_count"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["gpu", "ttl", "name", "value", "custom_lease", "timeout", "memory"]) | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(raw=st.dictionaries(st.sampled_from([*ServiceOptions.model_fields, "x"]), anything, max_size=4))
def test_whatever_is_written_is_read_or_refused_with_its_keys(raw: dict[str, object]) -> None:
    problems = option_problems(raw)
    if not problems:
        parse_options("here", raw)
    for path, problem in problems:
        assert path[0] in raw
        assert problem
