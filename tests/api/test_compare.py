"""What users lose when a form changes."""

from __future__ import annotations

import pytest
from scripts._api.compare import losses, retyped
from scripts._api.items import Item, Surface, surface


def stable(**forms: str) -> Surface:
    return surface(Item(f"dynamo.{name}", form, "stable 0.1") for name, form in forms.items())


def lost(old: str, new: str) -> list[str]:
    return [loss.what for loss in losses(stable(f=old), stable(f=new))]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def(a: int) -> int", "def(a: int, b: int = 1) -> int"),
        ("def(a: int)", "def(a: int | str, *, c: bool = False) -> None"),
        ("def(a: int)", "def(a: int, *rest: int)"),
        ("def(a: int)", "def(a: int = 3)"),
        ("def(a: int, /)", "def(b: int, /)"),
        ("def(a: int, /)", "def(b: int)"),
        ("def(*, a: int)", "def(a: int)"),
        ("def(*, a: int, b: int)", "def(*, b: int, a: int)"),
        ("def(a: int, /, b: int = 1)", "def(c: int, /, b: int = 1)"),
        ("attribute = ...", "attribute: int"),
        ("class(a: int) of Exception", "class(a: int, b: int = 0) of Exception, dynamo.X"),
        ("class", "class(a: int)"),
        ("attribute: int", "property: int"),
        ("property: int", "property: int, settable"),
        ("constant: int = 3", "constant: int = 4"),
        ("option N = 3, from 0 to 9, $DYN_A", "option N = 4, from 0 to 99, $DYN_A"),
        ("option {a,b} = a", "option {a,b,c} = a"),
        ("message(a: int) tagged 1", "message(a: int, b: int = 3) tagged 1"),
        ("message(*, a: int, b: int)", "message(*, b: int, a: int)"),
        ("def(a: int | None)", "def(a: float | str)"),
        ("def(a: Literal['x'])", "def(a: Literal['x', 'y'])"),
        ("def() -> int | None", "def() -> int"),
        ("def() -> Path", "def() -> PurePath"),
    ],
)
def test_what_only_adds_takes_nothing_away(old: str, new: str) -> None:
    assert lost(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("def(a: int)", "def()", "does not take a any more"),
        ("def(a: int)", "def(b: int = 1)", "does not take a any more"),
        ("def(a: int, b: int)", "def(b: int, a: int)", "takes a at another place"),
        ("def(a: int)", "def(*, a: int)", "takes a by its name only"),
        ("def(a: int, /)", "def()", "does not take a any more"),
        ("def(*, a: int)", "def()", "does not take a any more"),
        ("def(*rest: int)", "def()", "does not take *rest any more"),
        ("def(**more: int)", "def()", "does not take **more any more"),
        ("def(a: int)", "def(a: int, b: int)", "needs b, which is new"),
        ("def()", "def(*, b: int)", "needs b, which is new"),
        ("def(a: int = 1)", "def(a: int)", "needs a, which had a default"),
        ("def(a: int = 1, /)", "def(a: int, /)", "needs a, which had a default"),
        ("def(a: int | str)", "def(a: str)", "does not take int for a any more"),
        (
            "def(a: Literal['x', 'y'] | None)",
            "def(a: Literal['y'] | None)",
            "does not take Literal['x'] for a any more",
        ),
        ("def(*, a: int | None = None)", "def(*, a: int = 1)", "does not take None for a any more"),
        ("async def() -> int", "async def() -> int | None", "may return None, too"),
        ("message(a: int | str)", "message(a: int)", "does not take str for a any more"),
        ("message(a: int)", "message(a: int | None)", "may say None for a, too"),
        ("def(a: int = 1, /)", "def(b: int, /)", "needs b, which is new"),
        ("def(a: int, *rest: int)", "def(a: int, b: int = 1, *rest: int)", "takes b where *rest began"),
        ("def(a: int)", "async def(a: int)", "was def and is async def"),
        ("def(a: int)", "class(a: int)", "was def and is class"),
        ("def()", "staticmethod def()", "was def and is staticmethod def"),
        ("class(a: int)", "class", "cannot be made by its users any more"),
        ("class(a: int) of dynamo.X", "class(a: int)", "is no dynamo.X any more"),
        ("class of Exception", "class of ValueError", "is no Exception any more"),
        ("property: int, settable", "property: int", "cannot be set any more"),
        ("member = 1", "member = 2", "was 1 and is 2"),
        ("attribute: ClassVar[str] = 'a'", "attribute: ClassVar[str] = 'b'", "was 'a' and is 'b'"),
        ("option N = 3, $DYN_A", "option N required, $DYN_A", "is required"),
        ("option N = 3, $DYN_A", "option N = 3", "is not read from DYN_A any more"),
        ("option str = None, -f", "option str = None", "is not spelled -f any more"),
        ("option on or off = False, -U", "option on or off = False", "is not spelled -U any more"),
        ("option N = 3", "option on or off = off", "takes no value any more"),
        ("option on or off = off", "option N = 3", "takes a value"),
        ("option {a,b} = a", "option {a} = a", "does not take b any more"),
        ("message(a: int, b: int)", "message(b: int)", "does not take a any more"),
        ("message(a: int) tagged 1", "message(a: int) tagged 2", "was tagged 1 and is tagged 2"),
        ("message(a: int)", "message(a: int, b: int)", "needs b, which is new"),
        ("message(*, a: int)", "message(a: int)", "travels as an array"),
        ("message(a: int)", "message(*, a: int)", "takes a by its name only"),
    ],
)
def test_what_does_not_work_any_more_is_named(old: str, new: str, what: str) -> None:
    assert what in lost(old, new)


@pytest.mark.parametrize(
    ("old", "new", "given"),
    [
        ("def(a: int, b: int = 1)", "def(a: int)", ["b"]),
        ("def(a: int, /)", "def()", ["a"]),
        ("def(a: int = 1, b: int = 1)", "def(*, b: int = 1)", ["a", "a b"]),
        ("def(*, a: int | str)", "def(*, a: int)", ["a"]),
        ("def(a: int = 1)", "def(a: int)", [""]),
    ],
)
def test_a_loss_tells_what_everybody_gives_who_notices(old: str, new: str, given: list[str]) -> None:
    assert [" ".join(sorted(loss.given)) for loss in losses(stable(f=old), stable(f=new))] == given


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("def(a: int, b: int = 1)", "def(a: float, b: int = 2, c: int = 3)", ["a", "b"]),
        ("class(*, a: int = 1)", "class(*, a: int)", ["a"]),
        ("def(a: int, *, b: int = 1)", "def(a: int, b: int = 1)", []),
        ("class", "class(a: int)", []),
    ],
)
def test_another_type_and_another_default_are_told(old: str, new: str, names: list[str]) -> None:
    assert sorted(retyped(stable(f=old), stable(f=new))) == [("dynamo.f", name) for name in names]


def test_of_a_class_that_is_gone_the_members_are_not_named() -> None:
    old = surface([Item("dynamo.A", "class", "stable 0.1"), Item("dynamo.A.f", "def()")])
    assert [(loss.name, loss.what) for loss in losses(old, {})] == [("dynamo.A", "is gone")]


def test_a_lower_tier_is_a_loss() -> None:
    old, new = stable(f="def()"), surface([Item("dynamo.f", "def()", "beta 0.2")])
    assert [loss.what for loss in losses(old, new)] == ["was stable and is beta"]
    assert list(losses(new, old)) == []


def test_what_becomes_an_alias_is_judged_by_what_it_stands_for() -> None:
    old = stable(f="def(a: int)")
    same = stable(f="alias of dynamo.g", g="def(a: int, b: int = 1)")
    other = stable(f="alias of dynamo.g", g="def()")
    assert list(losses(old, same)) == []
    assert [(loss.name, loss.what) for loss in losses(old, other)] == [("dynamo.f", "does not take a any more")]


def test_a_new_option_of_an_old_command_must_not_be_required() -> None:
    old = surface([Item("dynamo run", "command", "stable 0.1")])
    new = surface(
        [
            *old.values(),
            Item("dynamo run --x", "option str required"),
            Item("dynamo run --y", "option str = 1"),
            Item("dynamo run GRAPH", "argument str required"),
        ]
    )
    assert [(loss.name, loss.what) for loss in losses(old, new)] == [
        ("dynamo run --x", "is new and required"),
        ("dynamo run GRAPH", "is new and required"),
    ]
    assert list(losses({}, new)) == []


#: A class with a method, and one that is derived from it.
FAMILY = surface(
    [
        Item("dynamo.P", "class", "stable 0.1"),
        Item("dynamo.P.f", "def(a: int)"),
        Item("dynamo.A", "class of dynamo.P", "stable 0.1"),
        Item("dynamo.A.g", "def()"),
    ]
)


def family(*items: Item, without: str = "") -> list[tuple[str, str]]:
    """What is lost of it with these items in place of its own, and without one."""
    new = surface([*(one for one in FAMILY.values() if one.name != without), *items])
    return [(loss.name, loss.what) for loss in losses(FAMILY, new)]


def test_a_member_that_moves_to_a_public_base_is_still_there() -> None:
    assert family(Item("dynamo.P.g", "def()"), without="dynamo.A.g") == []


def test_a_member_that_takes_the_place_of_a_base_s_takes_what_that_took() -> None:
    assert family(Item("dynamo.A.f", "def(a: int, b: int = 1)")) == []
    assert family(Item("dynamo.A.f", "def()")) == [("dynamo.A.f", "does not take a any more")]


def test_the_members_of_a_class_that_becomes_an_alias_are_those_of_the_other_one() -> None:
    other = [Item("dynamo.A", "alias of dynamo.B", "stable 0.1"), Item("dynamo.B", "class of dynamo.P", "stable 0.1")]
    assert family(*other, Item("dynamo.B.g", "def()"), without="dynamo.A.g") == []
    assert family(*other, without="dynamo.A.g") == [("dynamo.A.g", "is gone")]
