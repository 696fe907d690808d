"""What users of one surface lose with another: read from the forms, so that an old file is enough.

Of types, text can say that a union has fewer kinds to take, or more to give. Whether one name stands for more than
another it cannot; a change of that sort, and one of a default, is no loss, and `retyped` tells of it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from scripts._api.items import Item, Surface, owners, tier_of
from scripts._api.signatures import OMITTED

_KIND = re.compile(r"[a-z ]*[a-z]")
#: Reading one is the same.
_READ_ALIKE = {"attribute", "property"}
_ALIAS = "alias of "
_TIERS = ("", "experimental", "beta", "stable")


class Change(NamedTuple):
    """Something that does not work any more."""

    what: str
    #: The parameters that everybody gives who notices; none if it can be noticed without any.
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Loss:
    """A name of which something that used to work does not any more, and what; `given` as in `Change`."""

    name: str
    what: str
    given: frozenset[str] = frozenset()


def losses(old: Surface, new: Surface) -> Iterator[Loss]:
    """Yield what does not work any more, one for each name and fault."""
    for name, item in old.items():
        found = _found(name, new)
        if found is None:
            # Of a class or a command that is gone, so are the members.
            if not any(owner in old and owner not in new for owner in owners(name)):
                yield Loss(name, "is gone")
            continue
        was, is_now = tier_of(item, old), tier_of(found, new)
        if _TIERS.index(is_now) < _TIERS.index(was):
            yield Loss(name, f"was {was} and is {is_now or 'of no tier'}")
        for change in _changes(_followed(item, old), _followed(found, new)):
            yield Loss(name, *change)
    for name, item in new.items():
        if name in old or not any(owner in old for owner in owners(name)):
            continue
        if item.form.startswith(("option", "argument")) and " required" in item.form:
            yield Loss(name, "is new and required")
        if (before := _found(name, old)) is not None:  # it was a base's, and is the class's own
            for change in _changes(before.form, item.form):
                yield Loss(name, *change)


def retyped(old: Surface, new: Surface) -> Iterator[tuple[str, str]]:
    """Yield each name with a parameter that it takes as before, but of another type or with another default."""
    for name, item in old.items():
        if (found := _found(name, new)) is None:
            continue
        was, is_now = _arguments(_followed(item, old)), _arguments(_followed(found, new))
        if was is not None and is_now is not None:
            before, now = dict(_parameters(was)), dict(_parameters(is_now))
            yield from ((name, one) for one in before.keys() & now.keys() if before[one] != now[one])


def _found(name: str, items: Surface) -> Item | None:
    """What a name stands for: its own line, or that of a member of what its owner is an alias of, or a base of it."""
    if name in items:
        return items[name]
    owner, _, member = name.rpartition(".")
    if owner not in items:
        return None
    form = items[owner].form
    above = {form.removeprefix(_ALIAS)} if form.startswith(_ALIAS) else _bases(form)
    return next((found for one in sorted(above) if (found := _found(f"{one}.{member}", items)) is not None), None)


def _followed(item: Item, items: Surface) -> str:
    """The form of what an alias stands for."""
    original = items.get(item.form.removeprefix(_ALIAS))
    return item.form if original is None else original.form


def _changes(old: str, new: str) -> Iterator[Change]:
    if old == new:
        return
    was, is_now = _kind(old), _kind(new)
    if was != is_now and not {was, is_now} <= _READ_ALIKE:
        yield Change(f"was {was} and is {is_now}")
    elif was.startswith(("option", "argument")):
        yield from map(Change, _option_changes(old, new))
    elif was in ("member", "attribute"):
        yield from map(Change, _value_changes(old, new))
    elif was == "property":
        if ", settable" in old and ", settable" not in new:
            yield Change("cannot be set any more")
    else:
        yield from _call_changes(old, new)


def _kind(form: str) -> str:
    found = _KIND.match(form)
    kind = found[0] if found else form
    if kind.startswith(("option", "argument")):
        return kind.split()[0]
    return "class" if kind.startswith("class of") else kind


def _option_changes(old: str, new: str) -> Iterator[str]:
    if " required" in new and " required" not in old:
        yield "is required"
    if _is_switch(old) != _is_switch(new):
        yield "takes no value any more" if _is_switch(new) else "takes a value"
    for variable in re.findall(r"\$\w+", old):
        if variable not in re.findall(r"\$\w+", new):
            yield f"is not read from {variable[1:]} any more"
    for spelling in sorted(_spellings(old) - _spellings(new)):
        yield f"is not spelled {spelling} any more"
    lost = _choices(old) - _choices(new) if _choices(new) else set()
    for choice in sorted(lost):
        yield f"does not take {choice} any more"


def _is_switch(form: str) -> bool:
    return form.startswith("option on or off")


def _spellings(form: str) -> set[str]:
    return set(re.findall(r", (--?[A-Za-z0-9][A-Za-z0-9/-]*)", form))


def _choices(form: str) -> set[str]:
    found = re.search(r"\{([^}]*)\}", form)
    return set(found[1].split(",")) if found else set()


def _value_changes(old: str, new: str) -> Iterator[str]:
    was, is_now = old.partition(" = ")[2], new.partition(" = ")[2]
    if was and was not in (is_now, OMITTED):
        yield f"was {was} and is {is_now or 'without a value'}"


def _call_changes(old: str, new: str) -> Iterator[Change]:
    was, is_now = _arguments(old), _arguments(new)
    if was is not None and is_now is None:
        yield Change("cannot be made by its users any more")
    elif was is not None and is_now is not None:
        yield from _argument_changes(was, is_now)
        yield from _type_changes(was, is_now, is_message=old.startswith("message"))
        if old.startswith("message") and was.kwonlyargs and is_now.args:
            yield Change("travels as an array")
    if more := _more(_returned(old), _returned(new)):
        yield Change(f"may return {more}, too")
    for base in _bases(old) - _bases(new):
        yield Change(f"is no {base} any more")
    if _tag(old) != _tag(new):
        yield Change(f"was{_tag(old) or ' without a tag'} and is{_tag(new) or ' without a tag'}")


def _bases(form: str) -> set[str]:
    _, of, bases = form.rpartition(" of ")
    return set(bases.split(", ")) if of and form.startswith("class") and ")" not in bases else set()


def _tag(form: str) -> str:
    found = re.search(r"\)( tagged \S+)$", form) if form.startswith("message") else None
    return found[1] if found else ""


def _arguments(form: str) -> ast.arguments | None:
    """The parameters of a form; None if it has none, as a class that users do not make."""
    start = form.find("(")
    if start < 0:
        return None
    for end in [at for at, character in enumerate(form) if character == ")"]:
        try:
            function = ast.parse(f"def f{form[start : end + 1]}: ...").body[0]
        except SyntaxError:
            continue
        assert isinstance(function, ast.FunctionDef)
        return function.args
    return None


def _returned(form: str) -> ast.expr | None:
    """What a function returns, as far as it says."""
    if "def(" not in form:
        return None
    [function] = ast.parse(f"def f{form[form.index('(') :]}: ...").body
    assert isinstance(function, ast.FunctionDef)
    return function.returns


def _argument_changes(old: ast.arguments, new: ast.arguments) -> Iterator[Change]:
    was_at, is_at = [*old.posonlyargs, *old.args], [*new.posonlyargs, *new.args]
    now = {one.arg: place for place, one in enumerate(is_at)}
    named = {one.arg for one in (*new.args, *new.kwonlyargs)}
    for place, one in enumerate(was_at):
        # Who gives one by its place gives all before it, too.
        itself, up_to_it = frozenset([one.arg]), frozenset(each.arg for each in was_at[: place + 1])
        if place < len(old.posonlyargs):
            if place >= len(is_at) and new.vararg is None:
                yield Change(f"does not take {one.arg} any more", up_to_it)
        elif one.arg not in named and new.kwarg is None:
            yield Change(f"does not take {one.arg} any more", itself)
        elif one.arg not in now:
            yield Change(f"takes {one.arg} by its name only", up_to_it)
        elif now[one.arg] != place:
            yield Change(f"takes {one.arg} at another place", up_to_it)
    for one in old.kwonlyargs:
        if one.arg not in named and new.kwarg is None:
            yield Change(f"does not take {one.arg} any more", frozenset([one.arg]))
    if old.vararg is not None and len(is_at) > len(was_at):
        yield Change(f"takes {is_at[len(was_at)].arg} where *{old.vararg.arg} began")
    if old.vararg is not None and new.vararg is None:
        yield Change(f"does not take *{old.vararg.arg} any more")
    if old.kwarg is not None and new.kwarg is None:
        yield Change(f"does not take **{old.kwarg.arg} any more")
    known = {one.arg for one in (*was_at, *old.kwonlyargs)}
    # Who had to give these, and by their places, does not see what they are called.
    nameless = {one.arg for one in is_at[: min(len(old.posonlyargs), len(was_at) - len(old.defaults))]}
    for name in sorted(_required(new) - _required(old) - nameless):
        yield Change(f"needs {name}" + (", which had a default" if name in known else ", which is new"))


def _type_changes(old: ast.arguments, new: ast.arguments, *, is_message: bool) -> Iterator[Change]:
    was, is_now = dict(_parameters(old)), dict(_parameters(new))
    for name in was.keys() & is_now.keys():
        before, now = was[name].annotation, is_now[name].annotation
        if fewer := _more(now, before):
            yield Change(f"does not take {fewer} for {name} any more", frozenset([name]))
        # Older processes read what newer ones send.
        if is_message and (more := _more(before, now)):
            yield Change(f"may say {more} for {name}, too")


@dataclass(frozen=True)
class _Parameter:
    """What stands behind a parameter's name: as text, and the type as a tree."""

    text: str
    annotation: ast.expr | None = field(compare=False)


def _parameters(arguments: ast.arguments) -> Iterator[tuple[str, _Parameter]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults, *arguments.kw_defaults]
    for one, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=True):
        parts = [ast.unparse(part) for part in (one.annotation, default) if part is not None]
        yield one.arg, _Parameter(" = ".join(parts), one.annotation)


def _more(few: ast.expr | None, many: ast.expr | None) -> str:
    """What a union has beside all that another one has; empty if that has anything else, or either is not told."""
    if few is None or many is None or not (these := _kinds(few)) < (those := _kinds(many)):
        return ""
    return " or ".join(sorted(those - these))


def _kinds(annotation: ast.expr) -> set[str]:
    """The kinds of a union, with each value of a `Literal` as one."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kinds(left) | _kinds(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=values)):
            return {f"Literal[{ast.unparse(value)}]" for value in values}
    return {ast.unparse(annotation)}


def _required(arguments: ast.arguments) -> set[str]:
    """The parameters without a default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    required = {one.arg for one in positional[: len(positional) - len(arguments.defaults)]}
    return required | {
        one.arg for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    }
