"""Constructors: which values of a configuration reach them, and which are refused before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.runtime import DynamoError
from dynamo.sdk._constructor import (
    Constructor,
    configured_arguments,
    constructor_of,
    constructor_problems,
    misspelt,
)
from dynamo.sdk._sections import Json, Section

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


class Model:
    def __init__(self, model_name: str = "a", *, temperature: float = 0.7, max_tokens=1024, top_k: int | None = None):  # type: ignore[no-untyped-def]
        ...


class Open:
    def __init__(self, a: int = 1, *rest: str, **values: object) -> None: ...


class Plain: ...


class Needy:
    def __init__(self, model: str, *rest: str, size: int = 1, **more: str) -> None: ...


class Misspelt:
    def __init__(self, model_name: str) -> None: ...


def arguments(inner: type, section: Section, **others: Section) -> dict[str, object]:
    return configured_arguments("S", inner, {"S": section, **others})


def test_keys_that_are_parameters_are_passed_and_a_dash_is_an_underscore() -> None:
    section: Section = {"model-name": "b", "temperature": 0.5, "cache_size": 1, "ServiceArgs": {}, "common-configs": []}
    assert arguments(Model, section) == {"model_name": "b", "temperature": 0.5}
    assert arguments(Plain, section) == {}


def test_a_constructor_with_keywords_takes_every_key() -> None:
    assert arguments(Open, {"a": 2, "cache-size": 1, "ServiceArgs": {}}) == {"a": 2, "cache_size": 1}


def test_common_values_are_passed_where_the_section_lists_them_and_has_none_itself() -> None:
    common: Section = {"model_name": "common", "temperature": 0.1, "max_tokens": 5}
    section: Section = {"common-configs": ["model_name", "temperature"], "temperature": 0.9}
    assert arguments(Model, section, Common=common) == {"model_name": "common", "temperature": 0.9}


@pytest.mark.parametrize(
    ("key", "value", "passed"),
    [
        ("temperature", 1, 1.0),
        ("temperature", "1e-3", 0.001),
        ("temperature", 0.5, 0.5),
        ("top_k", 5, 5),
        ("top_k", 5.0, 5),
        ("top_k", "12345678901234567890", 12345678901234567890),
        ("top_k", None, None),
        ("max_tokens", "as it is", "as it is"),
        ("model_name", "5", "5"),
    ],
)
def test_a_value_is_passed_as_its_annotation_says(key: str, value: Json, passed: object) -> None:
    result = arguments(Model, {key: value})[key]
    assert result == passed
    assert type(result) is type(passed)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("temperature", "hot", "must be a number, not 'hot'"),
        ("temperature", True, "must be a number, not True"),
        ("temperature", None, "must be a number, not None"),
        ("temperature", "nan", "must be a number, not 'nan'"),
        ("temperature", 10**400, "must be a number, not 1000"),
        ("top_k", 1.5, "must be a whole number or null, not 1.5"),
        ("top_k", math.inf, "must be a whole number or null, not inf"),
        ("top_k", False, "must be a whole number or null, not False"),
        ("top_k", [1], "must be a whole number or null, not [1]"),
        ("model-name", 5, "must be text, not 5; write it in quotes"),
        ("model_name", None, "must be text, not None"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: Json, problem: str) -> None:
    [(path, found)] = constructor_problems("S", constructor_of(Model), {"S": {key: value}})
    assert path == ("S", key)
    assert found.startswith(problem)
    with pytest.raises(DynamoError, match=f"S.{key}: must be"):
        arguments(Model, {key: value})


def test_a_wrong_value_of_common_is_told_where_it_stands() -> None:
    config: dict[str, Section] = {"Common": {"temperature": "hot"}, "S": {"common-configs": ["temperature"]}}
    assert constructor_problems("S", constructor_of(Model), config)[0][0] == ("Common", "temperature")


def test_a_wrong_secret_is_not_shown() -> None:
    class Secret:
        def __init__(self, api_key: int = 0) -> None: ...

    [(_, problem)] = constructor_problems("S", constructor_of(Secret), {"S": {"api_key": "sk-123"}})
    assert problem == "must be a whole number, not '***'"


def test_one_parameter_in_two_spellings_is_refused() -> None:
    problems = constructor_problems("S", constructor_of(Model), {"S": {"model-name": "a", "model_name": "b"}})
    assert problems == [(("S", "model_name"), "S.model-name is the same parameter; keep one of them")]


def test_a_parameter_without_a_value_is_named_with_how_to_set_it() -> None:
    assert arguments(Needy, {"model": "m"}) == {"model": "m"}
    with pytest.raises(DynamoError, match=r"^S cannot be built without 'model': set it with --S\.model=VALUE$"):
        arguments(Needy, {})


def test_a_parameter_that_seems_to_be_there_misspelt_is_told_where_it_stands() -> None:
    problems = constructor_problems("S", constructor_of(Misspelt), {"S": {"modl-name": "m"}})
    assert problems == [(("S", "modl-name"), "S cannot be built without 'model_name'; is it meant by this key?")]


def test_a_parameter_that_no_configuration_can_fill_is_named() -> None:
    class Positional:
        def __init__(self, a: int, /, b: int = 1) -> None: ...

    with pytest.raises(DynamoError, match="Positional cannot be built: its parameter 'a' is positional only"):
        constructor_of(Positional)


def test_every_problem_is_told() -> None:
    problems = constructor_problems("S", constructor_of(Needy), {"S": {"size": "big"}})
    assert [problem for _, problem in problems] == [
        "must be a whole number, not 'big'",
        "S cannot be built without 'model': set it with --S.model=VALUE",
    ]


class Odd:
    def __init__(
        self,
        mode: bool = False,
        ratio: Optional[float] = None,  # noqa: UP045 - as users write it
        either: int | str = 1,
        table: dict[str, int] = {},  # noqa: B006
        anything: object = None,
        limit: int = None,  # type: ignore[assignment]  # noqa: RUF013
    ) -> None: ...


def test_plain_annotations_are_read_and_others_allow_everything() -> None:
    kinds = {parameter.name: parameter.kinds for parameter in constructor_of(Odd).parameters}
    assert kinds == {
        "mode": ("true or false",),
        "ratio": ("a number", "null"),
        "either": ("a whole number", "text"),
        "table": (),
        "anything": (),
        "limit": ("a whole number", "null"),
    }


def test_annotations_for_a_type_checker_only_allow_everything() -> None:
    class Checked:
        def __init__(self, engine: Unknown, size: int = 1) -> None: ...

    assert [parameter.kinds for parameter in constructor_of(Checked).parameters] == [(), ()]


class Strange:
    def __repr__(self) -> str:
        raise ValueError("no")


def test_defaults_are_shown_as_json_or_as_python_does_and_secrets_not_at_all() -> None:
    class Defaults:
        def __init__(  # type: ignore[no-untyped-def]
            self,
            needed,
            a="x",
            b=0.5,
            c=None,
            d=(1, 2),
            e=Plain,
            f="y" * 1000,
            api_key="sk",
            g={"token": 1},  # noqa: B006
            h=Strange(),  # noqa: B008
        ): ...

    shown = {parameter.name: parameter.default for parameter in constructor_of(Defaults).parameters}
    assert shown["needed"] is None
    assert [shown[name] for name in "abcd"] == ['"x"', "0.5", "null", "[1, 2]"]
    assert "Plain" in (shown["e"] or "")
    assert len(shown["f"] or "") == 203
    assert (shown["api_key"], shown["g"]) == ('"***"', '{"token": "***"}')
    assert "Strange" in (shown["h"] or "")


@dataclass
class Data:
    model: str
    sizes: list[int] = field(default_factory=list)


class Dictionary(dict[str, str]): ...


def test_constructors_that_nobody_wrote_are_read_as_far_as_they_say() -> None:
    assert constructor_of(Data).names == ["model", "sizes"]
    assert constructor_of(Plain) == constructor_of(Dictionary) == Constructor()


def test_it_survives_the_way_between_processes() -> None:
    constructor = constructor_of(Odd)
    assert msgspec.json.decode(msgspec.json.encode(constructor), type=Constructor) == constructor


def test_keys_that_look_like_a_parameter_are_found() -> None:
    assert misspelt(["tempereture", "model-name", "cache_size"], constructor_of(Model)) == [
        ("tempereture", "temperature")
    ]
    assert misspelt(["aa"], constructor_of(Open)) == []


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(value=scalars)
def test_what_is_no_problem_arrives_as_its_type(value: Json) -> None:
    types: Mapping[str, tuple[type, ...]] = {
        "model_name": (str,),
        "temperature": (float,),
        "top_k": (int, type(None)),
    }
    for key, allowed in types.items():
        if not constructor_problems("S", constructor_of(Model), {"S": {key: value}}):
            assert type(arguments(Model, {key: value})[key]) in allowed
