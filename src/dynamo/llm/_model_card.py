"""The model card: all that a frontend must know to serve a model.

A worker makes it from its model directory and puts it into discovery; frontends read it there. It says
where the tokenizer is (`source_path`) and what its checksum must be, so that a frontend never tokenizes
with another vocabulary than the worker's. Unknown fields and unknown model types of a newer peer are ignored.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path

import msgspec

from dynamo._core.address import check_name
from dynamo._core.errors import ConfigError, InvalidArgument, ProtocolError
from dynamo._core.stability import stable
from dynamo.llm._limits import MODEL_CARD_BYTES_MAX
from dynamo.llm._model_files import TOKENIZER, ModelFiles, checksum, read_model_directory

KV_CACHE_BLOCK_SIZE = 16
MIGRATION_LIMIT = 3
MIGRATION_LIMIT_MAX = 1024


@stable(since="0.1")
class ModelType(enum.Flag):
    """What a model can be asked for; several are joined with `|`. As text: `chat,completions`."""

    Chat = enum.auto()
    Completions = enum.auto()
    Embedding = enum.auto()
    TensorBased = enum.auto()
    Prefill = enum.auto()
    Images = enum.auto()
    Audios = enum.auto()
    Videos = enum.auto()
    Realtime = enum.auto()
    Classify = enum.auto()
    Pooling = enum.auto()
    Rerank = enum.auto()

    def __str__(self) -> str:
        return ",".join(flag.name.lower() for flag in self if flag.name is not None)

    @classmethod
    def parse(cls, text: str, *, ignore_unknown: bool = False) -> ModelType:
        """Read names separated by commas or `|`; an unknown one is an error, unless it is to be ignored."""
        parsed = cls(0)
        for name in filter(None, (part.strip().lower() for part in re.split(r"[,|]", text))):
            if name in _MODEL_TYPES:
                parsed |= _MODEL_TYPES[name]
            elif not ignore_unknown:
                raise InvalidArgument(f"unknown model type {name!r}; known are {', '.join(_MODEL_TYPES)}", name=name)
        return parsed


_MODEL_TYPES = {flag.name.lower(): flag for flag in ModelType if flag.name is not None}


@stable(since="0.1")
class ModelInput(enum.Enum):
    """What a worker takes: text (the request's own body), token ids, or tensors."""

    Text = "text"
    Tokens = "tokens"
    Tensor = "tensor"


@stable(since="0.1")
class SamplingDefaults(msgspec.Struct, omit_defaults=True, frozen=True):
    """What the model's makers recommend; used where a request says nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@stable(since="0.1")
class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """All that a frontend must know to serve a model."""

    display_name: str
    slug: str
    source_path: str
    context_length: int
    architectural_max_context_length: int | None = None
    model_type: ModelType = ModelType.Chat | ModelType.Completions
    model_input: ModelInput = ModelInput.Tokens
    kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE
    migration_limit: int = MIGRATION_LIMIT
    eos_token_ids: list[int] = []
    special_tokens: dict[str, str] = {}
    #: By name; "default" is the usual one, "tool_use" is taken when the request has tools.
    chat_templates: dict[str, str] = {}
    sampling_defaults: SamplingDefaults = SamplingDefaults()
    checksums: dict[str, str] = {}
    #: What the worker tells about itself; plain JSON values.
    runtime_config: dict[str, object] = {}
    #: What whoever registered the model says to whoever reads the card; plain JSON values.
    user_data: dict[str, object] = {}
    #: How requests find the model's workers, in place of what the frontend is told (`_advertised_router.py`).
    router_config: dict[str, object] | None = None
    #: What requests may ask of the worker, and what a frontend must know to serve it (`_capabilities.py`).
    capabilities: list[str] | None = None
    requires: list[str] = []
    #: Its worker is still finding out whether others differ from it: frontends take no notice yet (`_agreement.py`).
    is_settling: bool = False
    #: Its worker is there though others may differ from it: it waits until they are gone.
    waits: bool = False

    @classmethod
    def from_local_path(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        context_length: int | None = None,
        kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE,
        migration_limit: int = MIGRATION_LIMIT,
        model_type: ModelType = ModelType.Chat | ModelType.Completions,
        model_input: ModelInput = ModelInput.Tokens,
        runtime_config: dict[str, object] | None = None,
        custom_template_path: str | Path | None = None,
    ) -> ModelCard:
        """Read a model directory. `name` is what requests call the model; the folder's name if not given."""
        directory = Path(path).expanduser().resolve()
        display_name = name if name is not None else directory.name
        check_name("model name", display_name)
        for setting, value, least in (
            ("kv_cache_block_size", kv_cache_block_size, 1),
            ("migration_limit", migration_limit, 0),
        ):
            if value < least:
                raise ConfigError(f"{setting} is {value}; it must be at least {least}", setting=setting)
        files = read_model_directory(directory, None if custom_template_path is None else Path(custom_template_path))
        return cls(
            display_name=display_name,
            slug=re.sub(r"[^a-z0-9_-]", "_", display_name.lower()),
            source_path=str(directory),
            context_length=_context_length(files, directory, context_length),
            architectural_max_context_length=files.architectural_context_length,
            model_type=model_type,
            model_input=model_input,
            kv_cache_block_size=kv_cache_block_size,
            migration_limit=migration_limit,
            eos_token_ids=files.eos_token_ids,
            special_tokens=files.special_tokens,
            chat_templates=files.templates,
            sampling_defaults=_sampling_defaults(files),
            checksums=files.checksums,
            runtime_config=runtime_config or {},
        )

    @classmethod
    def from_json(cls, data: bytes) -> ModelCard:
        """Read a card from discovery; raises `ProtocolError` if it is none."""
        if len(data) > MODEL_CARD_BYTES_MAX:
            raise ProtocolError(f"a model card of {len(data)} bytes is over the limit of {MODEL_CARD_BYTES_MAX}")
        try:
            fields = msgspec.json.decode(data, type=dict[str, object])
            fields["model_type"] = ModelType.parse(str(fields.get("model_type", "")), ignore_unknown=True).value
            return msgspec.convert(fields, cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"not a model card: {error}") from error

    def to_json(self) -> bytes:
        """Return the card as it stands in discovery."""
        fields = msgspec.structs.asdict(self)
        fields["model_type"] = str(self.model_type)
        return msgspec.json.encode(fields)

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer is, on the machine that made the card."""
        return Path(self.source_path) / TOKENIZER

    @property
    def chat_template(self) -> str | None:
        """The usual chat template; None if the model has none and cannot be chatted with."""
        return self.chat_templates.get("default")

    @property
    def mdc_sum(self) -> str:
        """A checksum of all that the workers of one model must agree on."""
        agreed = (
            self.display_name, self.context_length, self.kv_cache_block_size, str(self.model_type),
            self.model_input.value, self.eos_token_ids, sorted(self.checksums.items()),
        )  # fmt: skip
        return checksum(msgspec.json.encode(agreed))


def _context_length(files: ModelFiles, directory: Path, wanted: int | None) -> int:
    """The wanted length if the model has that many positions, else the smaller of the model's and the tokenizer's."""
    own = files.architectural_context_length
    if wanted is not None:
        if wanted < 1 or (own is not None and wanted > own):
            raise ConfigError(
                f"context_length is {wanted}; {directory} supports 1 to {own if own is not None else 'any number'}",
                context_length=wanted,
            )
        return wanted
    known = [length for length in (own, files.tokenizer_context_length) if length is not None]
    if not known or min(known) < 1:
        raise ConfigError(
            f"neither config.json nor tokenizer_config.json of {directory} tells a usable context length; "
            "give context_length"
        )
    return min(known)


def _sampling_defaults(files: ModelFiles) -> SamplingDefaults:
    """The recommendations of `generation_config.json`; those on sampling count only where it asks to sample."""
    generation = files.generation
    if not generation.do_sample:
        return SamplingDefaults(repetition_penalty=generation.repetition_penalty)
    return SamplingDefaults(
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        min_p=generation.min_p,
        repetition_penalty=generation.repetition_penalty,
    )
