"""What an endpoint wants to be sent, as far as its annotation says, and whether a model has it.

Only what is certain counts. A model that computes, renames or rewrites its fields is passed over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from dynamo.sdk._annotations import request_type

#: What a model overrides when it reads or writes its data in a way of its own.
_READING = ("__init__", "__new__", "model_validate", "model_validate_json", "__get_pydantic_core_schema__")
_WRITING = ("__new__", "model_dump", "__get_pydantic_core_schema__")


def request_model(function: Callable[..., object]) -> type[BaseModel] | None:
    """Return the model that an endpoint takes. None if it takes something else, or cannot be told what."""
    parameter = request_parameter(function)
    if parameter is None:
        return None
    try:
        wanted = request_type(function, parameter)
    except TypeError:  # unknown at run time: that is said where the handler is made
        return None
    return wanted if isinstance(wanted, type) and issubclass(wanted, BaseModel) else None


def request_parameter(function: Callable[..., object]) -> inspect.Parameter | None:
    """Return the parameter of a method that takes the request: the one after self."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return parameters[0] if parameters and parameters[0].kind in positional else None


def misfit(sent: type[BaseModel] | None, wanted: type[BaseModel] | None) -> str | None:
    """Say what is wanted and which field of it surely lacks in what is sent; None if nothing is certain."""
    missing = _missing_fields(sent, wanted) if sent is not None and wanted is not None else []
    if sent is None or wanted is None or not missing:
        return None
    return f"{wanted.__name__}, whose field {missing[0]!r} {sent.__name__} does not have"


def _missing_fields(sent: type[BaseModel], wanted: type[BaseModel]) -> list[str]:
    """Return the fields that `wanted` needs and an instance of `sent`, once it is dumped, surely does not have."""
    if issubclass(sent, wanted) or _writes_its_own_way(sent) or _reads_its_own_way(wanted):
        return []
    written = set(sent.model_computed_fields)
    for name, field in sent.model_fields.items():
        written |= {name, *_aliases(field)}
    needed = [name for name, field in wanted.model_fields.items() if field.is_required() and not _aliases(field)]
    return [name for name in needed if name not in written]


def _writes_its_own_way(model: type[BaseModel]) -> bool:
    serializers = model.__pydantic_decorators__.model_serializers
    return (
        issubclass(model, RootModel)
        or model.model_config.get("extra") == "allow"
        or model.model_config.get("alias_generator") is not None
        or bool(serializers)
        or _overrides(model, _WRITING)
    )


def _reads_its_own_way(model: type[BaseModel]) -> bool:
    validators = model.__pydantic_decorators__.model_validators.values()
    return (
        issubclass(model, RootModel)
        or model.model_config.get("alias_generator") is not None
        or any(validator.info.mode != "after" for validator in validators)
        or _overrides(model, _READING)
    )


def _overrides(model: type[BaseModel], names: tuple[str, ...]) -> bool:
    own = [base for base in model.__mro__ if base not in BaseModel.__mro__]
    return any(name in vars(base) for base in own for name in names)


def _aliases(field: FieldInfo) -> set[str]:
    """The other names of a field; a path or a choice of names counts as one."""
    return {str(alias) for alias in (field.alias, field.validation_alias, field.serialization_alias) if alias}
