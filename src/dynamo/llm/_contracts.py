"""Data that one component makes and another reads, declared once, in two forms.

What people construct is a `Contract`: a pydantic model that refuses what it does not know and what is out of range,
and says so by name. What travels is a msgspec struct that `WireForm` makes of the same declaration: it reads fast,
and ignores what a newer peer has added. The model is what is written down, because it is what people see: editors
know its fields and types, while the struct is only ever decoded into.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar, Union, get_args, get_origin

import annotated_types
import msgspec
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic.types import Strict
from typing_extensions import dataclass_transform

from dynamo._core.errors import InvalidArgument
from dynamo.llm._plain_model import explained

M = TypeVar("M", bound="Contract")

#: A number of things.
Count = Annotated[int, Field(strict=True, ge=0)]
#: A part of a whole: 0 is none of it and 1 all of it.
Share = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass

    @dataclass_transform(kw_only_default=False, field_specifiers=(Field,))
    class _ByPosition(ModelMetaclass):
        """What tells type checkers that values may be given by position, too."""
else:
    _ByPosition = type(BaseModel)


class Contract(BaseModel, extra="forbid", frozen=True, metaclass=_ByPosition):
    """A model that people construct, with values by position, by name, or both. It does not change afterwards.

    Raises `InvalidArgument`, which names each field that is wrong, its value and what is allowed, and `TypeError` for
    too many values, or two for one field.
    """

    def __init__(self, *values: object, **fields: object) -> None:
        kind = type(self)
        names = list(kind.model_fields)
        if len(values) > len(names):
            raise TypeError(
                f"{kind.__name__} takes at most {len(names)} values ({', '.join(names)}), not {len(values)}"
            )
        if twice := [name for name in names[: len(values)] if name in fields]:
            raise TypeError(f"{kind.__name__} got two values for {twice[0]!r}")
        try:
            super().__init__(**dict(zip(names, values, strict=False)), **fields)
        except ValidationError as error:
            first, message = explained(kind, error)
            raise InvalidArgument(message, param=first) from None


class WireForm(Generic[M]):
    """How a contract travels."""

    def __init__(self, model: type[M]) -> None:
        self.model = model
        #: What its bytes are decoded into.
        self.struct = wire_struct(model)

    def read(self, value: msgspec.Struct) -> M:
        """Return what was decoded as what people know. Raises `InvalidArgument` for what they could not construct."""
        return self.model(**msgspec.to_builtins(value))


def wire_struct(model: type[BaseModel]) -> type[msgspec.Struct]:
    """Return the struct with the fields, types, ranges and defaults of a model, which ignores unknown fields."""
    fields = [_wire_field(name, field) for name, field in model.model_fields.items()]
    return msgspec.defstruct(
        model.__name__, fields, frozen=True, module=model.__module__, namespace={"__doc__": model.__doc__}
    )


def _wire_field(name: str, field: FieldInfo) -> tuple[str, object] | tuple[str, object, object]:
    kind = _wire_type(field.annotation, field.metadata)
    return (name, kind) if field.is_required() else (name, kind, field.get_default())


def _wire_type(annotation: object, metadata: Iterable[object] = ()) -> object:
    """Return what msgspec is told instead of this annotation: models become structs, and ranges `Meta`."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _wire_type(inner, [*metadata, *_of_fields(more)])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return wire_struct(annotation)
    arguments = tuple(map(_wire_type, get_args(annotation)))
    kind = annotation
    if get_origin(annotation) in (Union, types.UnionType):
        kind = Union[arguments]  # noqa: UP007
    elif get_origin(annotation) is list:
        kind = types.GenericAlias(list, arguments)
    elif arguments:
        raise TypeError(f"{annotation} has no wire form: use models, lists, `| None` and plain values")
    limits = _limits(metadata)
    return Annotated[kind, limits] if limits is not None else kind


def _of_fields(metadata: Iterable[object]) -> Iterable[object]:
    for one in metadata:
        yield from one.metadata if isinstance(one, FieldInfo) else (one,)


def _limits(metadata: Iterable[object]) -> msgspec.Meta | None:
    least: float | None = None
    most: float | None = None
    longest: int | None = None
    for one in metadata:
        match one:
            case annotated_types.Ge(ge=int() | float() as limit):
                least = limit
            case annotated_types.Le(le=int() | float() as limit):
                most = limit
            case annotated_types.MaxLen(max_length=size):
                longest = size
            case Strict():
                pass  # what travels has one form only
            case _:
                raise TypeError(f"{one!r} has no wire form")
    if longest is not None:
        return msgspec.Meta(max_length=longest)
    return None if least is None and most is None else msgspec.Meta(ge=least, le=most)
