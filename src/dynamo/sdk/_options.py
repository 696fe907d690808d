"""What `@service(...)` and the `ServiceArgs` of a configuration may say, checked.

Both say the same things, so both are read here. What is not said is None: only a value that was
given overrides another.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, TypedDict, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_serializer,
)
from pydantic_core import ErrorDetails

from dynamo._core.errors import ConfigError
from dynamo._core.stability import stable
from dynamo.sdk._option_values import (
    WORKERS_MAX,
    check_whole_above_one,
    read_count,
    read_cpu,
    read_gpu,
    read_memory,
    read_name,
    read_variables,
)
from dynamo.sdk._secrets import shown
from dynamo.sdk._sections import KeyPath, deep_merge

NAMESPACE_DEFAULT = "default"
LEASE_TTL_S = 1.0

#: What a value must be, by the kind of problem that pydantic has with it, which `ctx` details.
_WANTED = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "model_type": "a mapping",
    "dict_type": "a mapping",
}


if TYPE_CHECKING:  # which sees the fields of a model, and would see none of them behind what follows
    _Model = BaseModel
else:

    class _Explaining(type(BaseModel)):
        """What is wrong is said as it is of a decorator or a configuration, and not as pydantic says it."""

        def __call__(cls, *args: object, **fields: object) -> object:
            try:
                return super().__call__(*args, **fields)
            except ValidationError as error:
                problems = "; ".join(_located(problem, cls) for problem in error.errors())
                raise ConfigError(f"{cls.__name__}(): {problems}") from error

    class _Model(BaseModel, metaclass=_Explaining):
        pass


class _Options(_Model):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


@stable(since="0.1")
class LeaseConfig(_Options):
    """A lease of the service's own, beside that of its process. Raises `ConfigError` for what makes no sense."""

    #: Seconds for which its workers stay found when nobody renews it.
    ttl: Annotated[float, Field(gt=0, allow_inf_nan=False)] = LEASE_TTL_S


@stable(since="0.1")
class DynamoConfig(_Options):
    """How the service appears in the system. Raises `ConfigError` for what makes no sense."""

    enabled: StrictBool = True
    name: Annotated[str | None, BeforeValidator(read_name)] = None
    namespace: Annotated[str, BeforeValidator(read_name)] = NAMESPACE_DEFAULT
    #: What it is to the tools of the system, such as "planner".
    component_type: Annotated[str | None, BeforeValidator(read_name)] = None
    custom_lease: LeaseConfig | None = None


_Gpus = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(check_whole_above_one)]


class Resources(_Options):
    """What one worker of the service needs."""

    cpu: Annotated[str | None, BeforeValidator(read_cpu)] = None
    memory: Annotated[str | None, BeforeValidator(read_memory)] = None
    gpu: Annotated[_Gpus | None, BeforeValidator(read_gpu)] = None

    @field_serializer("gpu")
    def _as_written(self, gpu: float | None) -> int | float | None:
        return int(gpu) if gpu is not None and gpu >= 1 else gpu


class Traffic(_Options):
    """How requests to the service are treated."""

    #: Seconds that a call through `depends` may take.
    timeout: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None


class ServiceOptions(_Options):
    """Everything that is said about a service beside its code."""

    dynamo: DynamoConfig = DynamoConfig()
    resources: Resources = Resources()
    workers: Annotated[int, BeforeValidator(read_count), Field(ge=1, le=WORKERS_MAX)] = 1
    image: str | None = None
    envs: Annotated[dict[str, str], BeforeValidator(read_variables)] = {}
    labels: dict[str, str] = {}
    traffic: Traffic = Traffic()

    def overridden_by(self, other: ServiceOptions) -> ServiceOptions:
        """Return these options, with what `other` was given on top, merged key by key."""
        merged = deep_merge(self.model_dump(exclude_unset=True), other.model_dump(exclude_unset=True))
        return ServiceOptions.model_validate(merged)


class LeaseDict(TypedDict, total=False):
    """`LeaseConfig` as it is written in a decorator."""

    ttl: float


class DynamoDict(TypedDict, total=False):
    """`DynamoConfig` as it is written in a decorator."""

    enabled: bool
    name: str
    namespace: str
    component_type: str
    custom_lease: LeaseConfig | LeaseDict


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
        problems = "; ".join(_located(problem, ServiceOptions) for problem in error.errors())
        raise ConfigError(f"{where}: {problems}") from error


def option_problems(raw: Mapping[str, object]) -> list[tuple[KeyPath, str]]:
    """Check the options; return the keys that lead to each one that is wrong, and what is wrong with it."""
    try:
        ServiceOptions.model_validate(raw)
    except ValidationError as error:
        return [
            (tuple(str(part) for part in problem["loc"]), _problem(problem, ServiceOptions))
            for problem in error.errors()
        ]
    return []


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Say that a name is unknown, and which one was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"


def _located(problem: ErrorDetails, model: type[BaseModel]) -> str:
    location = problem["loc"][:-1] if problem["type"] == "extra_forbidden" else problem["loc"]
    path = ".".join(str(part) for part in location)
    return f"{path}: {_problem(problem, model)}" if path else _problem(problem, model)


def _problem(problem: ErrorDetails, model: type[BaseModel]) -> str:
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        return unknown_name("key", str(location[-1]), _fields(model, location[:-1]))
    value = problem["input"]
    if problem["type"] not in _WANTED:
        return problem["msg"].removeprefix("Value error, ")
    wanted = _WANTED[problem["type"]].format_map(problem.get("ctx", {}))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    quoted = "; write it in quotes" if wanted == "text" and is_number else ""
    return f"must be {wanted}, not {shown(str(location[-1]), value)}{quoted}"


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        [model] = [
            choice
            for choice in (annotation, *get_args(annotation))
            if isinstance(choice, type) and issubclass(choice, BaseModel)
        ]
    return list(model.model_fields)
