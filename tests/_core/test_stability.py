"""Marks of stability: what they say, that they change nothing, and when the experimental warns."""

from __future__ import annotations

import enum
import inspect
import pickle
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec
import pydantic
import pytest

from dynamo._core.stability import (
    ExperimentalWarning,
    Stability,
    Tier,
    beta,
    experimental,
    stability_of,
    stable,
)


@stable(since="0.1")
class Base:
    """A thing.

    It has two paragraphs.
    """

    @beta(since="0.2")
    def young(self) -> int:
        """Give one."""
        return 1

    @property
    @beta(since="0.2")
    def size(self) -> int:
        """Its size."""
        return 1

    width = beta(since="0.2")(property(lambda self: 1, doc="Its width."))

    @beta(since="0.2")
    @classmethod
    def make(cls) -> Base:
        """Give one."""
        return cls()

    @beta(since="0.2")
    @staticmethod
    def check() -> None:
        """Check it."""


class Derived(Base):
    """A thing of a user's."""


@stable(since="0.1")
def function(value: int, *, times: int = 1) -> int:
    """Multiply."""
    return value * times


@experimental(since="0.3", changes="its arguments may change")
class Trial:
    """A trial."""

    def __init__(self, value: int = 3) -> None:
        self.value = value


@stable(since="0.1")
@dataclass(frozen=True, slots=True)
class Data:
    """A value."""

    count: int = 0


@stable(since="0.1")
class Message(msgspec.Struct, frozen=True):
    """A message."""

    count: int = 0


@stable(since="0.1")
class Model(pydantic.BaseModel, extra="forbid"):
    """A model."""

    count: int = 0


@stable(since="0.1")
class Colour(enum.Enum):
    """A colour."""

    RED = 1


@stable(since="0.1")
@runtime_checkable
class Shape(Protocol):
    """Has an area."""

    def area(self) -> float: ...


MARKED = (Base, function, Data, Message, Model, Colour, Shape)


@pytest.mark.parametrize("thing", MARKED)
def test_every_kind_of_thing_can_be_marked(thing: object) -> None:
    assert stability_of(thing) == Stability(Tier.STABLE, "0.1")
    assert str(thing.__doc__).endswith("\n\nStable since 0.1.\n") or "    Stable since 0.1.\n" in str(thing.__doc__)


def test_an_object_is_as_stable_as_its_class() -> None:
    assert stability_of(Base()) == stability_of(Base)
    assert stability_of(Message()) == stability_of(Message)


def test_methods_and_properties_have_marks_of_their_own() -> None:
    things = [Base.young, Base().young, Base.size, Base.width, Base.make, Base().make, Base.check]
    assert [stability_of(thing) for thing in things] == [Stability(Tier.BETA, "0.2")] * 7
    assert all(str(inspect.getdoc(thing)).endswith("may change with a minor release.") for thing in things)
    assert (Base().width, type(Base.make())) == (1, Base)


@pytest.mark.parametrize("thing", [Derived, Derived(), 3, "text", None, len, lambda: None])
def test_what_nobody_marked_has_no_mark(thing: object) -> None:
    assert stability_of(thing) is None


def test_the_docstring_says_the_tier_in_a_paragraph_of_its_own() -> None:
    assert inspect.getdoc(Base) == "A thing.\n\nIt has two paragraphs.\n\nStable since 0.1."
    assert inspect.getdoc(Base.young) == "Give one.\n\nBeta since 0.2: it may change with a minor release."
    assert inspect.getdoc(Trial) == "A trial.\n\nExperimental since 0.3: its arguments may change."


def test_a_function_that_is_stable_or_in_beta_is_the_function_itself() -> None:
    def given() -> None: ...

    assert stable(since="0.1")(given) is given
    assert beta(since="0.1")(given) is given


@pytest.mark.parametrize("thing", [Base, function, Data(3), Message(3), Model(count=3), Colour.RED, Trial])
def test_what_is_marked_can_be_pickled(thing: object) -> None:
    assert pickle.loads(pickle.dumps(thing)) == thing or isinstance(thing, Base)  # noqa: S301 - our own


def test_a_marked_protocol_asks_no_more_of_its_implementations() -> None:
    class Square:
        def area(self) -> float:
            return 1.0

    assert isinstance(Square(), Shape)
    assert not isinstance(object(), Shape)


def test_signatures_stay_what_they_are() -> None:
    assert str(inspect.signature(Trial)) == "(value: 'int' = 3) -> 'None'"
    assert str(inspect.signature(function)) == "(value: 'int', *, times: 'int' = 1) -> 'int'"


def test_messages_and_models_are_read_as_before() -> None:
    assert msgspec.json.decode(b'{"count": 2, "newer": 1}', type=Message) == Message(2)
    assert Model.model_validate({"count": 2}).count == 2


def trial_function() -> Callable[[], int]:
    @experimental(since="0.3", changes="what it gives may change")
    def made() -> int:
        """Give one."""
        return 1

    return made


def test_the_first_call_of_an_experimental_function_warns_and_the_second_does_not() -> None:
    made = trial_function()
    with pytest.warns(ExperimentalWarning, match="made is experimental: what it gives may change") as said:
        assert made() + made() == 2
    assert [warning.filename for warning in said] == [__file__]


async def test_an_experimental_coroutine_function_stays_one() -> None:
    @experimental(since="0.3", changes="what it gives may change")
    async def made() -> int:
        return 1

    assert inspect.iscoroutinefunction(made)
    with pytest.warns(ExperimentalWarning) as said:
        assert await made() + await made() == 2
    assert [warning.filename for warning in said] == [__file__]


def test_the_first_object_of_an_experimental_class_warns() -> None:
    @experimental(since="0.3", changes="all of it")
    class Bare: ...

    @experimental(since="0.3", changes="all of it")
    class Pair(NamedTuple):
        left: int
        right: int

    for kind, arguments in ((Bare, ()), (Pair, (1, 2))):
        with pytest.warns(ExperimentalWarning, match=f"{kind.__name__} is experimental: all of it") as said:
            made = [kind(*arguments), kind(*arguments)]
        assert len(said) == 1
        assert all(isinstance(one, kind) for one in made)


def test_an_object_of_a_class_derived_from_an_experimental_one_warns() -> None:
    @experimental(since="0.3", changes="all of it")
    class Parent:
        def __init__(self, name: str) -> None:
            self.name = name

    class Child(Parent):
        pass

    with pytest.warns(ExperimentalWarning):
        assert Child("a").name == "a"


def test_an_experimental_class_still_refuses_arguments_that_it_does_not_take() -> None:
    @experimental(since="0.3", changes="all of it")
    class Bare: ...

    with pytest.warns(ExperimentalWarning), pytest.raises(TypeError):
        Bare(1)  # type: ignore[call-arg]


def test_messages_enums_and_protocols_that_are_experimental_warn_of_nothing() -> None:
    mark = experimental(since="0.3", changes="all of it")

    class Say(msgspec.Struct):
        count: int = 0

    class Kind(enum.Enum):
        A = 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mark(Say)().count == 0
        assert mark(Kind)(1) is Kind.A
    assert stability_of(Kind) == Stability(Tier.EXPERIMENTAL, "0.3", "all of it")


def test_our_own_use_does_not_warn_and_leaves_the_warning_to_the_user() -> None:
    made = trial_function()
    ours: dict[str, object] = {"__name__": "dynamo.llm._somewhere", "made": made}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("made()", ours)  # noqa: S102 - a module of ours, as far as it can tell
    with pytest.warns(ExperimentalWarning):
        made()


def test_a_generator_function_cannot_be_experimental() -> None:
    mark = experimental(since="0.3", changes="all of it")

    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for each in (numbers, later):
        with pytest.raises(TypeError, match="is a generator: mark the class or the function that gives it"):
            mark(each)


@pytest.mark.parametrize("kind", [property, classmethod, staticmethod])
def test_what_is_made_of_a_function_is_marked_below_if_it_is_experimental(kind: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=f"mark it below {kind.__name__}"):
        experimental(since="0.3", changes="all of it")(kind(lambda: 1))


def test_marks_are_light_to_import() -> None:
    code = "import sys, dynamo._core.stability; print(sorted({'asyncio', 'inspect', 'msgspec'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
