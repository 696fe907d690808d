"""As much of JSON Schema as the contracts use: whether a value is what a schema says, and if not, where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
#: Words that say nothing of a value.
_ABOUT = {
    "$schema", "$defs", "title", "description", "version", "stability", "default", "contentEncoding", "discriminator",
}  # fmt: skip


def faults(schema: Schema, value: object) -> list[str]:
    """Return where a value is not what a schema says. Raises `KeyError` for a word that is not known here."""
    return list(_faults(schema, value, schema.get("$defs", {}), "$"))


def _faults(schema: Schema, value: object, definitions: Schema, at: str) -> Iterator[str]:
    for word, said in schema.items():
        if word in _ABOUT:
            continue
        match word:
            case "$ref":
                yield from _faults(definitions[said.rpartition("/")[2]], value, definitions, at)
            case "anyOf" | "oneOf":
                if not any(not list(_faults(one, value, definitions, at)) for one in said):
                    yield f"{at} is none of what it may be"
            case "items" | "prefixItems" | "minItems" | "maxItems":
                if isinstance(value, list):
                    yield from _of_list(word, said, value, definitions, at)
            case "properties" | "required" | "additionalProperties" | "propertyNames":
                if isinstance(value, dict):
                    yield from _of_object(schema, word, said, value, definitions, at)
            case _:
                if not _holds(word, said, value):
                    yield f"{at} is {value!r}; {word}: {said}"


def _holds(word: str, said: Any, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match word:
        case "type":
            return isinstance(value, _TYPES[said]) and not (isinstance(value, bool) and said in ("integer", "number"))
        case "enum":
            return value in said
        case "const":
            return bool(value == said)
        case "minimum":
            return not is_number or value >= said
        case "maximum":
            return not is_number or value <= said
        case "exclusiveMinimum":
            return not is_number or value > said
        case "minLength":
            return not isinstance(value, str) or len(value) >= said
        case "maxLength":
            return not isinstance(value, str) or len(value) <= said
        case "maxProperties":
            return not isinstance(value, dict) or len(value) <= said
        case "uniqueItems":
            return not isinstance(value, list) or len({repr(one) for one in value}) == len(value)
    raise KeyError(word)


def _of_list(word: str, said: Any, value: list[Any], definitions: Schema, at: str) -> Iterator[str]:
    match word:
        case "items":
            for index, one in enumerate(value):
                yield from _faults(said, one, definitions, f"{at}[{index}]")
        case "prefixItems":
            for index, (one, place) in enumerate(zip(value, said, strict=False)):
                yield from _faults(place, one, definitions, f"{at}[{index}]")
        case "minItems" if len(value) < said:
            yield f"{at} has {len(value)} items; {said} at least"
        case "maxItems" if len(value) > said:
            yield f"{at} has {len(value)} items; {said} at most"


def _of_object(
    schema: Schema, word: str, said: Any, value: dict[str, Any], definitions: Schema, at: str
) -> Iterator[str]:
    match word:
        case "properties":
            for name, one in said.items():
                if name in value:
                    yield from _faults(one, value[name], definitions, f"{at}.{name}")
        case "required":
            yield from (f"{at}.{name} is missing" for name in said if name not in value)
        case "propertyNames":
            for name in value:
                yield from _faults(said, name, definitions, f"{at}.{name}")
        case "additionalProperties":
            for name in value.keys() - schema.get("properties", {}).keys():
                if said is False:
                    yield f"{at}.{name} is not known"
                elif said is not True:
                    yield from _faults(said, value[name], definitions, f"{at}.{name}")
