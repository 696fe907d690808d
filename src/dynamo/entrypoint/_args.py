"""What an entry point is to be: who answers, with which model, and where. Whatever makes no sense is refused here."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from dynamo._core.address import EndpointId, check_name
from dynamo._core.errors import ConfigError
from dynamo._core.stability import beta
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.runtime._arguments import check_type

if TYPE_CHECKING:
    from dynamo.llm._model_config import ModelRuntimeConfig

PORT_MAX = 65535
MIGRATION_LIMIT_MAX = 1024


@beta(since="0.1")
class EngineType(enum.Enum):
    """Who answers the requests of an entry point."""

    #: An engine of this process that says prompts back: it needs the tokenizer of a model, and no weights.
    Echo = "echo"
    #: The workers that discovery knows.
    Dynamic = "dynamic"
    #: A simulated engine of this process, with blocks, batches and a speed: no weights, either.
    Mocker = "mocker"


_LOCAL = (EngineType.Echo, EngineType.Mocker)
_MOCKER = (EngineType.Mocker,)
_DYNAMIC = (EngineType.Dynamic,)

#: The parameters that only some engine types have a use for, and what is there instead.
_ONLY_FOR: dict[str, tuple[tuple[EngineType, ...], str]] = {
    "model_path": (_LOCAL, "the workers have their models"),
    "context_length": (_LOCAL, "the workers have registered theirs"),
    "template_file": (_LOCAL, "the workers have registered theirs"),
    "extra_engine_args": (_LOCAL, "the engines are the workers'"),
    "runtime_config": (_LOCAL, "the workers have registered theirs"),
    "mocker_engine_args": (_MOCKER, "give extra_engine_args to another engine of this process"),
    "kv_cache_block_size": (_MOCKER, "nothing else that answers here has blocks of which you could choose the size"),
    "router_config": (_DYNAMIC, "there is one engine"),
    "namespace": (_DYNAMIC, "where the engine is served, endpoint_id says"),
    "migration_max_seq_len": (_DYNAMIC, "there is one engine"),
}
#: The parameters that programs for other frontends give and that have no meaning here, and why.
_REFUSED = {
    "http_metrics_port": "the metrics are at /metrics of http_port",
    "tls_cert_path": "it serves plain HTTP: put a proxy that speaks TLS before it",
    "tls_key_path": "it serves plain HTTP: put a proxy that speaks TLS before it",
    "namespace_prefix": "give namespace, or nothing for the models of all",
    "is_prefill": "prefill and decode are done by one engine",
    "is_decode": "prefill and decode are done by one engine",
    "chat_engine_factory": "serve a generator with HttpService, or as an endpoint that llmctl registers",
    "ais_perf_config": "router_config says how workers are chosen",
    "metrics_prefix": "the names of metrics are fixed",
    "enable_anthropic_api": "it serves the OpenAI API",
}
#: The numbers, each with its least and most.
_RANGES = {
    "context_length": (1, None),
    "kv_cache_block_size": (1, None),
    "http_port": (0, PORT_MAX),
    "migration_limit": (0, MIGRATION_LIMIT_MAX),
    "migration_max_seq_len": (1, None),
}
_TEXTS = ("model_name", "endpoint_id", "http_host", "namespace")
_NAMES = ("model_name", "namespace")
_PATHS = ("model_path", "template_file")
_OPTIONS = ("extra_engine_args", "mocker_engine_args")


@beta(since="0.1")
@dataclass(frozen=True)
class EntrypointArgs:
    """What `make_engine` makes an engine of, and where `run_input` then listens. None leaves it to the default.

    A value of the wrong type raises TypeError, a name that is none `InvalidArgument`, and one that is out of range,
    contradicts another one, or would have no effect `ConfigError`; all name the parameter, the value and what is
    allowed. So do the parameters below that other frontends have and this one has no use for.
    """

    #: Who answers.
    engine_type: EngineType
    _: KW_ONLY
    #: Model directory, or the model's name on the hub. Echo and Mocker need one, for its tokenizer.
    model_path: str | Path | None = None
    #: What requests call the model; None: the name in `model_path`. With Dynamic: the one to ask, with text and batch.
    model_name: str | None = None
    #: Where the engine is served with dyn:// (`dynamo.backend.generate`); with Dynamic: whose workers to ask, not all.
    endpoint_id: str | None = None
    #: Tokens of a prompt and its answer together, if less than the model's.
    context_length: int | None = None
    #: File of a chat template to use instead of the model's.
    template_file: str | Path | None = None
    #: With Dynamic: how requests find their workers; None: they go to each in turn.
    router_config: RouterConfig | None = None
    #: With Mocker: tokens in a block of its KV cache (64).
    kv_cache_block_size: int | None = None
    #: Address that "http" listens on (127.0.0.1).
    http_host: str | None = None
    #: Its port (8080); 0 picks a free one.
    http_port: int | None = None
    #: Allow an address that other machines reach, although nobody is asked for credentials.
    insecure: bool = False
    #: Options of the engine by their names, such as token_delay_s of Echo, or a file with a JSON object of them.
    extra_engine_args: Mapping[str, object] | str | Path | None = None
    #: The same, of Mocker: speedup_ratio, num_gpu_blocks and others.
    mocker_engine_args: Mapping[str, object] | str | Path | None = None
    #: What the model card of a worker says of it besides: taints, device_weight and facts of your own.
    runtime_config: ModelRuntimeConfig | Mapping[str, object] | None = None
    #: With Dynamic: see the models of this namespace only.
    namespace: str | None = None
    #: How often a request may move to another worker when its own is lost; 0: never.
    migration_limit: int | None = None
    #: With Dynamic: a request with more tokens than this, prompt and answer together, does not move.
    migration_max_seq_len: int | None = None
    # What has no meaning here, and is refused by its name.
    http_metrics_port: int | None = None
    tls_cert_path: str | Path | None = None
    tls_key_path: str | Path | None = None
    namespace_prefix: str | None = None
    is_prefill: bool = False
    is_decode: bool = False
    chat_engine_factory: object = None
    ais_perf_config: object = None
    metrics_prefix: str | None = None
    enable_anthropic_api: bool = False

    def __post_init__(self) -> None:
        check_type("engine_type", self.engine_type, EngineType, "EngineType.Echo, EngineType.Dynamic or .Mocker")
        for name in sorted(self.given() & _REFUSED.keys()):
            raise ConfigError(f"{name}={getattr(self, name)!r} has no meaning here: {_REFUSED[name]}", setting=name)
        self._check_types()
        self._check_ranges()
        for name in sorted(self.given() & _ONLY_FOR.keys()):
            kinds, instead = _ONLY_FOR[name]
            if self.engine_type not in kinds:
                names = " and ".join(kind.name for kind in kinds)
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} has no effect with EngineType.{self.engine_type.name}, it is for "
                    f"{names}: {instead}",
                    setting=name,
                )
        if self.engine_type in _LOCAL and not self.model_path:
            raise ConfigError(
                f"model_path is missing: EngineType.{self.engine_type.name} answers in the tokens of a model. Give the "
                "model's directory, or its name on the hub",
                setting="model_path",
            )
        if self.mocker_engine_args is not None and self.extra_engine_args is not None:
            raise ConfigError(
                "extra_engine_args and mocker_engine_args are the same options: give one of them",
                setting="extra_engine_args",
            )

    def given(self) -> set[str]:
        """The names of the parameters that have been given."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name for name, value in values.items() if value is not None and value is not False}

    def endpoint(self) -> EndpointId | None:
        """`endpoint_id`, read. Raises `InvalidArgument` if it is none."""
        return None if self.endpoint_id is None else EndpointId.parse(self.endpoint_id)

    def _check_types(self) -> None:
        for names, types, allowed in (
            (_TEXTS, (str,), "a str, or None"),
            (_PATHS, (str, Path), "a path, or None"),
            (_OPTIONS, (Mapping, str, Path), "options by name, the path of a JSON file with them, or None"),
            (("router_config",), (RouterConfig,), "a RouterConfig, or None"),
        ):
            for name in names:
                check_type(name, getattr(self, name), (*types, type(None)), allowed)
        check_type("insecure", self.insecure, bool, "True or False")
        if self.runtime_config is not None:
            self._check_runtime_config(self.runtime_config)
        for name in _NAMES:
            if getattr(self, name) is not None:
                check_name(name, getattr(self, name))
        self.endpoint()  # checks it

    def _check_runtime_config(self, config: object) -> None:
        from dynamo.llm._model_config import ModelRuntimeConfig, check_runtime_facts

        if isinstance(config, Mapping):
            check_runtime_facts(config)
        else:
            allowed = "a ModelRuntimeConfig, a mapping of JSON values, or None"
            check_type("runtime_config", config, ModelRuntimeConfig, allowed)

    def _check_ranges(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            allowed = f"an integer of {least} or more" if most is None else f"an integer from {least} to {most}"
            check_type(name, value, int, f"{allowed}, or None")
            if value < least or (most is not None and value > most):
                raise ConfigError(f"{name}={value}: give {allowed}, or None", setting=name)
