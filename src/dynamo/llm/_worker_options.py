"""The options of a worker. A component adds its own in a subclass."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo._core.errors import ConfigError
from dynamo.llm._model_card import MIGRATION_LIMIT, MIGRATION_LIMIT_MAX, ModelType
from dynamo.llm._worker_labels import DEVICE_WEIGHT_MAX, DEVICE_WEIGHT_MIN, worker_labels
from dynamo.runtime._settings import DISCOVERY, EVENT_PLANE, REQUEST_PLANE, Settings, option, required_option

#: What becomes of a worker that others of its model differ from.
REFUSE = "refuse"
ON_CONFLICT = (REFUSE, "wait")


def check_on_conflict(value: str) -> str:
    """Return what it is. Raises `ConfigError` for anything else."""
    if value not in ON_CONFLICT:
        raise ConfigError(f"on_conflict={value!r}: give {' or '.join(map(repr, ON_CONFLICT))}", setting="on_conflict")
    return value


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Settings):
    """What every worker of a model can be told."""

    model_path: str = required_option("model directory, or the model's name on the hub where the engine can fetch it")
    model_name: str | None = option(None, "what requests call the model; without it, the name in the model path")
    namespace: str = option("dynamo", "namespace of the endpoint")
    component: str = option("backend", "component of the endpoint")
    endpoint: str = option("generate", "name of the endpoint")
    endpoint_types: str | None = option(
        None,
        "which APIs the model is served through: chat,completions; without it, completions, and chat if the model has "
        "a chat template",
    )
    context_length: int | None = option(None, "longest prompt and output together, if less than the model's", least=1)
    migration_limit: int = option(
        MIGRATION_LIMIT,
        "how often a request may move when its worker is lost; 0: never",
        least=0,
        most=MIGRATION_LIMIT_MAX,
    )
    custom_jinja_template: str | None = option(None, "file of a chat template to use instead of the model's")
    taints: str | None = option(None, "labels that requests may require or prefer, separated by commas: h100,eu")
    device_weight: float | None = option(
        None,
        "its share of the requests where the router mode is device-aware-weighted; one that says nothing has 1",
        least=DEVICE_WEIGHT_MIN,
        most=DEVICE_WEIGHT_MAX,
    )
    on_conflict: str = option(
        REFUSE,
        "what to do if other workers of the model differ in what matters: refuse to start, or wait until they are gone",
        choices=list(ON_CONFLICT),
    )
    discovery: str | None = option(None, DISCOVERY)
    request_plane: str | None = option(None, REQUEST_PLANE)
    event_plane: str | None = option(None, EVENT_PLANE)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.labels()  # checks them

    @property
    def model_type(self) -> ModelType | None:
        """What the model can be asked for; None: what its files allow. Raises `InvalidArgument` for unknown words."""
        return None if self.endpoint_types is None else ModelType.parse(self.endpoint_types)

    def labels(self) -> dict[str, object]:
        """What its model card says of the worker beside what its engine does. Raises `ConfigError`."""
        return worker_labels(self.taints, self.device_weight)
