"""The rules: what must have been announced before it goes, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts._api.items import Item, Surface, surface, text_of
from scripts._api.rules import changelog_lines, faults, released

BOTH = surface([Item("dynamo.A", "class()", "stable 0.1"), Item("dynamo.b", "def()", "stable 0.1")])
ONE = surface([BOTH["dynamo.A"]])
MARKED = surface([BOTH["dynamo.A"], Item("dynamo.b", "def()", "stable 0.1", "b is A now")])
YOUNG = surface([BOTH["dynamo.A"], Item("dynamo.b", "def()", "beta 0.1")])
ANNOUNCED = "# Changelog\n\n## 0.2.0 (unreleased)\n\n- `b` went.\n\n## 0.1.0\n\n- `c` came.\n"


def found(current: Surface, releases: dict[tuple[int, int], Surface], *, changelog: str = ANNOUNCED) -> list[str]:
    return list(faults(current, releases, (0, 2), changelog))


def test_what_is_stable_does_not_go_without_a_deprecation_before() -> None:
    assert found(ONE, {(0, 1): BOTH}) == [
        "dynamo.b is gone: it is stable, and 0.1 did not deprecate it; keep what works, deprecate it, and change it "
        "one minor release later"
    ]


def test_what_was_deprecated_one_minor_release_earlier_may_go() -> None:
    assert found(ONE, {(0, 1): MARKED}) == []


def test_within_a_minor_version_nothing_stable_goes_although_it_is_deprecated() -> None:
    assert found(ONE, {(0, 1): MARKED, (0, 2): MARKED}) == ["dynamo.b is gone: not within 0.2, which has it as stable"]


def with_parameters(form: str, *parameters: str) -> Surface:
    return surface([BOTH["dynamo.A"], Item("dynamo.b", form, "stable 0.1", "", parameters)])


def test_a_parameter_that_was_deprecated_may_go_and_what_stood_after_it_moves() -> None:
    before = with_parameters("def(a: int = 0, b: int = 0)", "a")
    assert found(with_parameters("def(*, b: int = 0)"), {(0, 1): before}) == []
    assert found(with_parameters("def(b: int = 0)"), {(0, 1): before}) == []
    [fault] = found(with_parameters("def(a: int = 0)"), {(0, 1): before})
    assert fault.startswith("dynamo.b does not take b any more: it is stable, and 0.1 did not deprecate it")
    assert len(found(with_parameters("def(*, b: int = 0)"), {(0, 2): before})) == 2


def test_another_default_is_named_with_its_parameter() -> None:
    before, now = with_parameters("def(size: int = 3)"), with_parameters("def(size: int = 4)")
    assert found(now, {(0, 1): before}) == [
        "dynamo.b takes another size, or has another default for it: say so in CHANGELOG.md, under unreleased, in one "
        "point with both `b` and `size`"
    ]
    apart = "## unreleased\n\n- `b` is new.\n- `size` is 4.\n"
    assert len(found(now, {(0, 1): before}, changelog=apart)) == 1
    assert found(now, {(0, 1): before}, changelog="## unreleased\n\n- `b` has\n  `size=4`.\n- `c`.\n") == []


def test_what_is_in_beta_may_go_when_the_changelog_says_so() -> None:
    assert found(ONE, {(0, 1): YOUNG}) == []
    assert found(ONE, {(0, 1): YOUNG}, changelog="") == [
        "dynamo.b came, went or changed: name it in CHANGELOG.md, under unreleased, as `b`"
    ]


def test_an_older_release_does_not_matter_once_there_is_a_newer_one() -> None:
    assert found(ONE, {(0, 0): BOTH, (0, 1): ONE}) == []


def test_what_comes_must_be_named_under_what_is_not_released() -> None:
    new = surface([*BOTH.values(), Item("dynamo.c", "def()", "stable 0.2")])
    assert found(new, {(0, 1): BOTH}) == [
        "dynamo.c came, went or changed: name it in CHANGELOG.md, under unreleased, as `c`"
    ]
    assert found(new, {(0, 1): BOTH}, changelog="## 0.2.0 (unreleased)\n- `c(...)` is new.\n") == []


def test_a_changed_signature_must_be_named_too() -> None:
    new = surface([BOTH["dynamo.b"], Item("dynamo.A", "class(size: int = 3)", "stable 0.1")])
    [fault] = found(new, {(0, 1): BOTH}, changelog="")
    assert fault.startswith("dynamo.A came, went or changed")


def test_the_members_of_a_new_class_need_no_line_of_their_own() -> None:
    new = surface([*BOTH.values(), Item("dynamo.C", "class()", "beta 0.2"), Item("dynamo.C.f", "def()")])
    assert found(new, {(0, 1): BOTH}, changelog="## unreleased\n- `dynamo.C`\n") == []
    more = surface([*new.values(), Item("dynamo.A.g", "def()")])
    assert len(found(more, {(0, 1): BOTH}, changelog="## unreleased\n- `dynamo.C`\n")) == 1


def test_every_name_needs_a_tier() -> None:
    bare = surface([Item("dynamo.b", "def()")])
    assert found(bare, {}) == ["dynamo.b has no tier: put @stable(since=...), @beta or @experimental above it"]


def test_without_a_release_there_is_nothing_to_keep_and_all_to_announce() -> None:
    assert found(ONE, {}, changelog="## 0.1.0 (unreleased)\n\n- `A`\n") == []
    assert len(found(BOTH, {}, changelog="")) == 2


def test_messages_are_announced_from_the_first_release_on() -> None:
    sent = surface([Item("message wire.Hello", "message(a: int)", "stable 0.1")])
    more = surface([Item("message wire.Hello", "message(a: int, b: int = 1)", "stable 0.1")])
    assert found(sent, {}) == []
    assert len(found(more, {(0, 1): sent})) == 1


def test_the_lines_that_are_missing_can_be_had() -> None:
    new = surface([*BOTH.values(), Item("$DYN_X", "variable", "beta 0.2")])
    assert changelog_lines(new, {}, "## unreleased\n- `b`\n") == ["- Variables: `DYN_X`.", "- `dynamo`: `A`."]


@pytest.mark.parametrize(("name", "versions"), [("0.10.txt", [(0, 2), (0, 10)]), ("unreleased.txt", [(0, 2)])])
def test_released_files_are_those_with_a_version_in_its_order(
    name: str, versions: list[tuple[int, int]], tmp_path: Path
) -> None:
    for each in ("0.2.txt", name):
        (tmp_path / each).write_text(text_of(BOTH))
    assert list(released(tmp_path)) == versions
    assert released(tmp_path)[(0, 2)] == BOTH
