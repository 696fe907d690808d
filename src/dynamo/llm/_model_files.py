"""Reading a model directory: the files beside the weights, each with a limit and with errors that name it.

Nothing here loads a library: a worker or a frontend reads a directory in milliseconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from dynamo._core.errors import ConfigError, NotFound
from dynamo.llm._limits import CHAT_TEMPLATE_BYTES_MAX, MODEL_CONFIG_BYTES_MAX, TOKENIZER_BYTES_MAX

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
NAMED_TEMPLATES = "additional_chat_templates"

#: Tokenizers say "no limit" with an absurdly large number.
SANE_CONTEXT_MAX = 10**9

_SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")

_T = TypeVar("_T")


class NamedTemplate(msgspec.Struct):
    """One of several templates of a tokenizer, as in `{"name": "tool_use", "template": "..."}`."""

    name: str
    template: str


class RopeScaling(msgspec.Struct):
    """How positions are stretched beyond those of training; `type` is the older name of `rope_type`."""

    rope_type: str = ""
    type: str = ""
    factor: float = 1.0
    original_max_position_embeddings: int | None = None


class GenerationConfig(msgspec.Struct):
    """The parts of `generation_config.json` that are used: where generation ends, and how it samples."""

    eos_token_id: int | list[int] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


class AddedToken(msgspec.Struct):
    """A token that the tokenizer matches as a whole."""

    id: int
    content: str


class TokenizerFile(msgspec.Struct):
    """The parts of `tokenizer.json` that a card needs; the rest is skipped, not kept."""

    added_tokens: list[AddedToken] = []


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What was read from a model directory, with the checksums of what must agree between workers."""

    config: dict[str, object]
    generation: GenerationConfig
    tokenizer_config: dict[str, object]
    added_token_ids: dict[str, int]
    templates: dict[str, str]
    checksums: dict[str, str]

    @property
    def special_tokens(self) -> dict[str, str]:
        """The texts of the special tokens that templates may name, by their names."""
        tokens: dict[str, str] = {}
        for name in _SPECIAL_TOKEN_NAMES:
            value = self.tokenizer_config.get(name)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                tokens[name] = value
        return tokens

    @property
    def eos_token_ids(self) -> list[int]:
        """Every token that ends a generation: those the model's files name, and the tokenizer's own."""
        named = self.generation.eos_token_id
        if named is None:
            named = msgspec.convert(self.config.get("eos_token_id"), int | list[int] | None)
        ids = [] if named is None else [named] if isinstance(named, int) else list(named)
        own = self.added_token_ids.get(self.special_tokens.get("eos_token", ""))
        if own is not None:
            ids.append(own)
        return list(dict.fromkeys(ids))

    @property
    def architectural_context_length(self) -> int | None:
        """How many positions the model itself has, stretched ones included; None if its files do not say."""
        config = self.config
        inner = config.get("text_config")
        if isinstance(inner, dict):
            config = inner
        length = next((value for name in _CONTEXT_NAMES if isinstance(value := config.get(name), int)), None)
        if length is None:
            return None
        scaling = msgspec.convert(config.get("rope_scaling") or config.get("rope_parameters") or {}, RopeScaling)
        kind = scaling.rope_type or scaling.type
        if kind == "yarn" and scaling.original_max_position_embeddings is not None:
            return max(length, int(scaling.original_max_position_embeddings * scaling.factor))
        if kind in ("yarn", "linear", "dynamic"):
            return int(length * scaling.factor)
        return length

    @property
    def tokenizer_context_length(self) -> int | None:
        """The tokenizer's own limit; None if it has none."""
        length = self.tokenizer_config.get("model_max_length")
        return int(length) if isinstance(length, int | float) and 0 < length < SANE_CONTEXT_MAX else None


def read_model_directory(path: Path, custom_template_path: Path | None) -> ModelFiles:
    """Read what a card needs; raises `NotFound` or `ConfigError` naming the file and what to do."""
    if not path.is_dir():
        what = "is a file, not a directory" if path.exists() else "does not exist"
        raise NotFound(f"model directory {path} {what}; give the folder that holds {CONFIG}", path=str(path))
    config = _read(path / CONFIG, MODEL_CONFIG_BYTES_MAX)
    if config is None:
        raise ConfigError(f"{path} is not a model directory: it has no {CONFIG}", path=str(path))
    tokenizer = _read(path / TOKENIZER, TOKENIZER_BYTES_MAX)
    if tokenizer is None:
        raise ConfigError(
            f"{path} has no {TOKENIZER}: only fast tokenizers, saved as {TOKENIZER}, can be served; "
            "convert it with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            path=str(path),
        )
    tokenizer_config = _tokenizer_config(path)
    templates = _templates(path, tokenizer_config, custom_template_path)
    added = decode_json(tokenizer, TokenizerFile, path / TOKENIZER).added_tokens
    generation = _read(path / GENERATION_CONFIG, MODEL_CONFIG_BYTES_MAX) or b"{}"
    checksums = {CONFIG: checksum(config), TOKENIZER: checksum(tokenizer)}
    if templates:
        checksums["chat_template"] = checksum("\0".join(f"{k}\0{v}" for k, v in sorted(templates.items())).encode())
    files = ModelFiles(
        config=decode_json(config, dict[str, object], path / CONFIG),
        generation=decode_json(generation, GenerationConfig, path / GENERATION_CONFIG),
        tokenizer_config=tokenizer_config,
        added_token_ids={token.content: token.id for token in added},
        templates=templates,
        checksums=checksums,
    )
    _check_config(files, path / CONFIG)
    return files


def checksum(data: bytes) -> str:
    """Return the checksum of a file's content, with the name of its algorithm."""
    return f"blake2b:{hashlib.blake2b(data, digest_size=16).hexdigest()}"


def read_limited(path: Path, size_bytes_max: int) -> bytes:
    """Read a whole file, unless it is larger than it may be; an `OSError` is the caller's to explain."""
    with path.open("rb") as file:
        data = file.read(size_bytes_max + 1)
    if len(data) > size_bytes_max:
        raise ConfigError(
            f"{path} is larger than the limit of {size_bytes_max} bytes for this file; is it what its name says?",
            path=str(path),
        )
    return data


def decode_json(data: bytes, type: type[_T], path: Path) -> _T:
    """Decode JSON; an error names the file and the line."""
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}", path=str(path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {_where(data, error)}", path=str(path)) from error


def _where(data: bytes, error: Exception) -> str:
    """Say where the JSON breaks, by line: msgspec counts bytes."""
    message = str(error)
    _, found, digits = message.rpartition("(byte ")
    position = int(digits.rstrip(")")) if found and digits.rstrip(")").isdigit() else None
    if isinstance(error, UnicodeDecodeError):
        position = error.start
    if position is None:
        return message
    line = data.count(b"\n", 0, position) + 1
    return f"{message}, line {line}"


def _read(path: Path, size_bytes_max: int) -> bytes | None:
    """Read a file; None if there is none."""
    try:
        return read_limited(path, size_bytes_max)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", path=str(path)) from error


def _tokenizer_config(path: Path) -> dict[str, object]:
    """The tokenizer's configuration, with the special tokens that older directories keep in a file of their own."""
    config: dict[str, object] = {}
    for name in (SPECIAL_TOKENS, TOKENIZER_CONFIG):
        data = _read(path / name, MODEL_CONFIG_BYTES_MAX)
        if data is not None:
            config.update(decode_json(data, dict[str, object], path / name))
    return config


def _templates(path: Path, tokenizer_config: dict[str, object], custom: Path | None) -> dict[str, str]:
    """The chat templates by name, "default" first of all: given by hand, else as files, else in the configuration."""
    if custom is not None:
        text = _read(custom, CHAT_TEMPLATE_BYTES_MAX)
        if text is None:
            raise NotFound(f"chat template {custom} does not exist", path=str(custom))
        return {"default": _text(text, custom)}
    found: dict[str, str] = {}
    named = sorted((path / NAMED_TEMPLATES).glob("*.jinja"))
    for name, file in [("default", path / TEMPLATE), *((file.stem, file) for file in named)]:
        data = _read(file, CHAT_TEMPLATE_BYTES_MAX)
        if data is not None:
            found[name] = _text(data, file)
    return found or _templates_of_config(tokenizer_config, path / TOKENIZER_CONFIG)


def _templates_of_config(tokenizer_config: dict[str, object], path: Path) -> dict[str, str]:
    value = tokenizer_config.get("chat_template")
    try:
        templates = msgspec.convert(value, str | list[NamedTemplate] | None)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: chat_template: {error}", path=str(path)) from error
    if templates is None:
        return {}
    if isinstance(templates, str):
        return {"default": templates}
    return {item.name: item.template for item in templates}


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", path=str(path)) from error


def _check_config(files: ModelFiles, path: Path) -> None:
    """Ask for everything that is converted later, so that a wrong type is reported with its file's name."""
    try:
        _ = files.eos_token_ids, files.architectural_context_length
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: eos_token_id or rope_scaling: {error}", path=str(path)) from error
