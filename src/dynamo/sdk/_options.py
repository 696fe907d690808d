"""What `@service(...)` and the `ServiceArgs` of a configuration may say, checked.

Both say the same things, so both are read here. What is not said is None: only a value that was
given overrides another.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypedDict

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError

from dynamo._core.address import check_name
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo.sdk._sections import ENVIRONMENT_VARIABLE, deep_merge

NAMESPACE_DEFAULT = "default"
WORKERS_MAX = 1024

_CPU = re.compile(r"\d+(\.\d+)?|\d+m")
_MEMORY = re.compile(r"\d+([KMGTPE]i?)?")


def _name(value: object) -> object:
    if isinstance(value, str):
        try:
            check_name("name", value)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
    return value


def _cpu(value: object) -> object:
    return _quantity("CPU", value, _CPU, "a number of cores such as 2, or thousandths such as 300m")


def _memory(value: object) -> object:
    return _quantity("Memory", value, _MEMORY, "a number of bytes with a unit, such as 20Gi")


def _quantity(kind: str, value: object, pattern: re.Pattern[str], help_text: str) -> object:
    if value is None or isinstance(value, bool):
        return value
    text = str(value)
    if not pattern.fullmatch(text):
        raise ValueError(f"Invalid {kind} format: {text}; write {help_text}")
    return text


def _gpu(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number of GPUs")
    return value


def _whole_above_one(gpus: float | None) -> float | None:
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus} is not supported: a share of a GPU is below 1, and more than one are whole")
    return gpus


def _count(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def _variables(value: object) -> object:
    """Read environment variables, given as a mapping or as a list of {name, value}."""
    if isinstance(value, list):
        entries: dict[object, object] = {}
        for entry in value:
            if not isinstance(entry, Mapping) or set(entry) != {"name", "value"}:
                raise ValueError("each entry must be a mapping of name and value")
            entries[entry["name"]] = entry["value"]
        value = entries
    if isinstance(value, Mapping):
        return {_variable_name(name): _variable(entry) for name, entry in value.items()}
    return value


def _variable_name(name: object) -> object:
    if name == "" or (isinstance(name, str) and ("=" in name or "\0" in name)):
        raise ValueError(f"{name!r} cannot be the name of an environment variable")
    if name == ENVIRONMENT_VARIABLE:
        raise ValueError(f"{ENVIRONMENT_VARIABLE} carries the configuration; write what it should say there")
    return name


def _variable(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and "\0" in value:
        raise ValueError("an environment variable cannot hold a zero byte")
    return str(value) if isinstance(value, int | float) else value


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DynamoConfig(_Options):
    """How the service appears in the system."""

    enabled: StrictBool = True
    name: Annotated[str | None, BeforeValidator(_name)] = None
    namespace: Annotated[str, BeforeValidator(_name)] = NAMESPACE_DEFAULT


class Resources(_Options):
    """What one worker of the service needs."""

    cpu: Annotated[str | None, BeforeValidator(_cpu)] = None
    memory: Annotated[str | None, BeforeValidator(_memory)] = None
    gpu: Annotated[float | None, BeforeValidator(_gpu), Field(ge=0), AfterValidator(_whole_above_one)] = None


class Traffic(_Options):
    """How requests to the service are treated."""

    #: Seconds that a call through `depends` may take.
    timeout: Annotated[float | None, Field(gt=0)] = None


class ServiceOptions(_Options):
    """Everything that is said about a service beside its code."""

    dynamo: DynamoConfig = DynamoConfig()
    resources: Resources = Resources()
    workers: Annotated[int, BeforeValidator(_count), Field(ge=1, le=WORKERS_MAX)] = 1
    image: str | None = None
    envs: Annotated[dict[str, str], BeforeValidator(_variables)] = {}
    labels: dict[str, str] = {}
    traffic: Traffic = Traffic()

    def overridden_by(self, other: ServiceOptions) -> ServiceOptions:
        """Return these options, with what `other` was given on top, merged key by key."""
        merged = deep_merge(self.model_dump(exclude_unset=True), other.model_dump(exclude_unset=True))
        return ServiceOptions.model_validate(merged)


class DynamoDict(TypedDict, total=False):
    """`DynamoConfig` as it is written in a decorator."""

    enabled: bool
    name: str
    namespace: str


class ResourcesDict(TypedDict, total=False):
    """`Resources` as they are written in a decorator."""

    cpu: str | int | float
    memory: str | int
    gpu: str | int | float


class TrafficDict(TypedDict, total=False):
    """`Traffic` as it is written in a decorator."""

    timeout: float


class EnvironmentVariable(TypedDict):
    """One entry of `envs`."""

    name: str
    value: str | int | float | bool


def parse_options(where: str, raw: Mapping[str, object]) -> ServiceOptions:
    """Check the options; `ConfigError` names every one that is wrong, and `where` it stands."""
    try:
        return ServiceOptions.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, ServiceOptions)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line what is wrong with the data given for `model`."""
    return "; ".join(_explain(problem["loc"], problem["type"], problem["msg"], model) for problem in error.errors())


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Say that a name is unknown, and which one was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"


def _explain(
    location: tuple[int | str, ...], kind: str | Literal["extra_forbidden"], message: str, model: type[BaseModel]
) -> str:
    path = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        parent = ".".join(str(part) for part in location[:-1])
        problem = unknown_name("key", str(location[-1]), _fields(model, location[:-1]))
        return f"{parent}: {problem}" if parent else problem
    return f"{path}: {message.removeprefix('Value error, ')}"


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
