"""How far each thing can be relied on: three tiers, marked where it is defined and readable at run time.

What is true here:

- A mark is an attribute, `__stability__`, and a last line of the docstring. Nothing is wrapped, so calls, `isinstance`,
  pickling and types are those of the thing itself.
- The exception is what is experimental: it warns once in a process, at its first use from outside of `dynamo`.
- A mark is the thing's own. A class that somebody derives from a stable one promises nothing.
- What can carry no attribute, as a constant or an alias of a type, stands in a table `__stability__` of its module:
  its name, and the mark.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

T = TypeVar("T")

_NAME = "__stability__"
_NEW, _INIT = "__new__", "__init__"
_OURS = "dynamo"
#: The line of a docstring that says what a tier is.
_SENTENCES = {"stable": "Stable since {}.", "beta": "Beta since {}: it may change with a minor release."}
_EXPERIMENTAL = "Experimental since {}: {}."


class Tier(StrEnum):
    """What may happen to a thing in the next release."""

    STABLE = "stable"
    BETA = "beta"
    EXPERIMENTAL = "experimental"


class ExperimentalWarning(FutureWarning):
    """Something experimental is used: it may change, or go, with any release."""


class Stability(NamedTuple):
    """A mark: the tier, and the release since which it holds."""

    tier: Tier
    since: str
    #: What may change; only of what is experimental.
    changes: str | None = None
    #: Whether users may make one, if it is a class; else they get one from somewhere.
    constructor: bool = True

    def sentence(self) -> str:
        """What is appended to the docstring."""
        if self.tier is Tier.EXPERIMENTAL:
            return _EXPERIMENTAL.format(self.since, self.changes)
        return _SENTENCES[self.tier].format(self.since)


def stable(*, since: str, constructor: bool = True) -> Callable[[T], T]:
    """Mark a class or a function whose use goes on working until the next major release.

    With `constructor=False` that does not hold for making one: users of the class get them from somewhere.
    """
    return functools.partial(_marked, Stability(Tier.STABLE, since, constructor=constructor))


def beta(*, since: str, constructor: bool = True) -> Callable[[T], T]:
    """Mark a class or a function that works, and whose form may change with a minor release."""
    return functools.partial(_marked, Stability(Tier.BETA, since, constructor=constructor))


def experimental(*, since: str, changes: str) -> Callable[[T], T]:
    """Mark a class or a function that may change or go; `changes` is the sentence that says what.

    The first call of a function warns, as does the first object of a class. A protocol, an enum or a message has
    nothing to call, and warns of nothing: what takes or gives it does. TypeError for a generator function, which would
    not be one any more, and for a property, a class method or a static method: what they are made of can be marked.
    """

    def mark(thing: T) -> T:
        mark = Stability(Tier.EXPERIMENTAL, since, changes)
        warned = _Warned(f"{_path(thing)} is experimental: {changes}")
        if (function := _function_in(thing)) is not None:
            raise TypeError(f"{_path(function)} is no function any more: mark it below {type(thing).__name__}")
        if not isinstance(thing, type):
            return _marked(mark, cast(T, _warning_function(cast("Callable[..., object]", thing), warned)))
        if type(thing).__call__ is type.__call__ and not _is_protocol(thing):
            setattr(thing, _INIT, _warning_function(_initializer(thing), warned))
        return _marked(mark, thing)

    return mark


def stability_of(thing: object) -> Stability | None:
    """Return the mark of a class, a function, a method or a property, or of the class of an object.

    None: it has no mark of its own. A method of an object without one is as stable as its class.
    """
    if isinstance(thing, property):
        return stability_of(thing.fget)
    if isinstance(thing, type):
        return _own(thing) or _protocols.get(thing)
    if (function := getattr(thing, "__func__", None)) is not None:
        return _own(function) or stability_of(getattr(thing, "__self__", None))
    return _own(thing) or stability_of(type(thing))


def _own(thing: object) -> Stability | None:
    mark = getattr(thing, "__dict__", {}).get(_NAME)
    return mark if isinstance(mark, Stability) else None


#: Marks of protocols: up to Python 3.11 each of its attributes is one that an implementation must have.
_protocols: WeakKeyDictionary[type, Stability] = WeakKeyDictionary()


def _marked(mark: Stability, thing: T) -> T:
    if (function := _function_in(thing)) is not None:
        _marked(mark, function)
        thing.__doc__ = _with_line(thing.__doc__, mark.sentence()) if thing.__doc__ else None
        return thing
    if isinstance(thing, type) and _is_protocol(thing):
        _protocols[thing] = mark
    else:
        setattr(thing, _NAME, mark)
    if thing.__doc__:
        thing.__doc__ = _with_line(thing.__doc__, mark.sentence())
    return thing


def _function_in(thing: object) -> object:
    """What a member of a class is that is no function; None if it is one, or no member."""
    if isinstance(thing, property):
        return thing.fget
    return thing.__func__ if isinstance(thing, classmethod | staticmethod) else None


def _with_line(text: str, line: str) -> str:
    """Append a paragraph, as far to the right as the docstring is."""
    lines = text.splitlines()
    indents = [len(one) - len(one.lstrip()) for one in lines[1:] if one.strip()]
    return f"{text.rstrip()}\n\n{' ' * min(indents, default=0)}{line}\n"


def _is_protocol(thing: type) -> bool:
    return bool(vars(thing).get("_is_protocol", False))


class _Warned:
    """What is said once in a process."""

    __slots__ = ("_is_said", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._is_said = False

    def __call__(self) -> None:
        """Say it, unless it was said or it is one of ours that uses the thing."""
        if self._is_said or _is_ours(sys._getframe(2).f_globals.get("__name__", "")):
            return
        self._is_said = True
        warnings.warn(self._text, ExperimentalWarning, stacklevel=3)


def _is_ours(module: str) -> bool:
    return module == _OURS or module.startswith(f"{_OURS}.")


def _path(thing: object) -> str:
    """The name by which it is known, without the modules that nobody imports from."""
    module = getattr(thing, "__module__", "")
    parts = [part for part in module.split(".") if not part.startswith("_")]
    return ".".join([*parts, getattr(thing, "__qualname__", repr(thing))])


def _initializer(thing: type) -> Callable[..., object]:
    inherited: Callable[..., object] = getattr(thing, _INIT)
    if inherited is object.__init__ and getattr(thing, _NEW) is not object.__new__:
        return lambda self, *args, **kwargs: None  # what `__new__` takes is nothing to it
    return inherited


def _warning_function(function: Callable[..., object], warned: _Warned) -> Callable[..., object]:
    """Return the function, which warns when it is called first."""
    import inspect  # only where something experimental is defined

    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{_path(function)} is a generator: mark the class or the function that gives it")

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: object, **kwargs: object) -> object:
            warned()
            return await function(*args, **kwargs)

        return awaited

    @functools.wraps(function)
    def called(*args: object, **kwargs: object) -> object:
        warned()
        return function(*args, **kwargs)

    return called
