"""Where the methods of a class use its dependencies: every `self.<dependency>.<name>` in the source.

A dependency that the class sets, changes or tests itself is not told of, nor is one whose use the code around
it expects to fail.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType

from dynamo.sdk._source import ClassSource, Function, functions_of, is_at, names_in, plain_function, source_of

#: Functions that ask what an object is: a class that calls them decides for itself what may be called.
_ASKING = ("hasattr", "getattr", "setattr", "delattr", "isinstance", "issubclass", "callable", "type", "vars", "dir")
#: Functions that change an object in a way that the source does not show.
_CHANGING = ("setattr", "delattr", "vars", "__setattr__", "__delattr__")
#: Errors as which an AttributeError is caught.
_CAUGHT = ("AttributeError", "Exception", "BaseException")
_CHANGES = frozenset((*_CHANGING, "__dict__"))


@dataclass(frozen=True, slots=True)
class Use:
    """One `self.<dependency>.<name>`, and the call that it is part of."""

    place: str
    dependency: str
    name: str
    call: ast.Call | None
    method: Function
    function: FunctionType
    #: Whether something decides if it is come to.
    is_conditional: bool


def uses_of(cls: type, dependencies: Iterable[str]) -> Iterator[Use]:
    """Yield what a class and its bases certainly use of these dependencies."""
    if inspect.getattr_static(cls, "__getattribute__") is not object.__getattribute__:
        return  # it decides itself what self.anything is
    wanted = set(dependencies)
    sources = []
    for base in user_bases(cls):
        mentioned = frozenset().union(*(names_in(function.__code__) for function in functions_of(base)))
        if mentioned & (wanted | _CHANGES):
            source = source_of(base)
            if source is not None:
                sources.append(source)
            elif mentioned & _CHANGES:
                return
            else:
                wanted -= mentioned
    touched = set().union(*(_touched(source) for source in sources))
    if None not in touched:
        for source in sources:
            yield from (use for use in _uses(cls, source) if use.dependency in wanted - touched)


def user_bases(cls: type) -> list[type]:
    """Return the classes that a class is made of, without those of this package."""
    return [base for base in cls.__mro__ if not base.__module__.startswith("dynamo.")]


def bound_names(method: Function) -> list[str]:
    """Return the names that a method gives a meaning, each as often as it does."""
    names: list[str] = []
    for node in ast.walk(method):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                names.append(name)
            case ast.alias(name=path, asname=name):
                names.append((name or path).partition(".")[0])
            case ast.Global() | ast.Nonlocal():
                names += node.names
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.append(name)
            case ast.MatchMapping(rest=str(name)):
                names.append(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names += [name] if node is not method else []
    return names


def called_name(node: ast.AST) -> str | None:
    """Return the last part of the name of what is called: `b` of `a.b(...)`."""
    match node:
        case ast.Call():
            return called_name(node.func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return None


def _uses(cls: type, source: ClassSource) -> Iterator[Use]:
    for method in source.methods():
        function = plain_function(inspect.getattr_static(cls, method.name, None))
        own = _self_name(method)
        if function is None or own is None or not is_at(method, function) or bound_names(method).count(own) != 1:
            continue  # replaced by a subclass or a decorator, or self has another meaning in a part of it
        parents = {child: node for node in ast.walk(method) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(method):
            dependency = _attribute_of(node.value, own) if isinstance(node, ast.Attribute) else None
            if isinstance(node, ast.Attribute) and dependency is not None and not _may_fail(node, parents):
                parent = parents[node]
                call = parent if isinstance(parent, ast.Call) and parent.func is node else None
                yield Use(
                    source.place(node), dependency, node.attr, call, method, function, _is_conditional(node, parents)
                )


def _is_conditional(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.If | ast.IfExp | ast.BoolOp | ast.While | ast.Match):
            return True
    return False


def _may_fail(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether the code around it copes with an AttributeError."""
    while node in parents:
        child, node = node, parents[node]
        match node:
            case ast.Try(body=body, handlers=handlers) | ast.TryStar(body=body, handlers=handlers) if child in body:
                copes = any(_copes(handler) for handler in handlers)
            case ast.With(items=items) | ast.AsyncWith(items=items):
                copes = any(_names_one_of(item.context_expr, _CAUGHT) for item in items)
            case _:
                copes = False
        if copes:
            return True
    return False


def _copes(handler: ast.ExceptHandler) -> bool:
    """Whether a handler is for AttributeErrors; one for all errors is not if it only passes them on."""
    if handler.type is not None and _names_one_of(handler.type, ("AttributeError",)):
        return True
    is_for_all = handler.type is None or _names_one_of(handler.type, _CAUGHT)
    return is_for_all and not isinstance(handler.body[-1], ast.Raise)


def _names_one_of(expression: ast.expr, names: tuple[str, ...]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(expression))


def _touched(source: ClassSource) -> set[str | None]:
    """The attributes of self that the class sets, changes or tests. None among them stands for any."""
    return source.assigned_again() | {
        name
        for method in source.methods()
        if (own := _self_name(method)) is not None
        for node in ast.walk(method)
        for name in _touched_by(node, own)
    }


def _touched_by(node: ast.AST, own: str) -> list[str | None]:
    match node:
        case ast.Call(args=[ast.Name(id=name), *_]) if name == own and called_name(node) in _CHANGING:
            return [None]
        case ast.Call(args=[argument, *_]) if called_name(node) in _ASKING:
            found = [_attribute_of(argument, own)]
        case ast.Attribute(value=ast.Name(id=name), attr="__dict__") if name == own:
            return [None]
        case ast.Attribute(ctx=ast.Store() | ast.Del()):
            found = [_attribute_of(node, own), _attribute_of(node.value, own)]
        case ast.Match(subject=subject):
            found = [_attribute_of(subject, own)]
        case _:
            return []
    return [name for name in found if name is not None]


def _self_name(method: Function) -> str | None:
    if any(called_name(decorator) in ("staticmethod", "classmethod") for decorator in method.decorator_list):
        return None
    arguments = [*method.args.posonlyargs, *method.args.args]
    return arguments[0].arg if arguments else None


def _attribute_of(node: ast.AST, own: str) -> str | None:
    """The name of an attribute of self."""
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == own:
            return attribute
    return None
