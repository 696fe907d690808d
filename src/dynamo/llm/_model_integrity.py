"""Whether a model's files are whole: by the hashes that the hub tells, and by what the weights say of themselves."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

from dynamo._core.errors import ConfigError
from dynamo.llm._limits import MODEL_CONFIG_BYTES_MAX
from dynamo.llm._model_files import decode_json, read_limited

WEIGHTS = "*.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

#: The library that defines the format allows no longer header.
HEADER_BYTES_MAX = 100_000_000
_LENGTH_BYTES = 8

#: How the hub's cache calls the content of a file: by its own hash, or by git's where it is small.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


class _Index(msgspec.Struct):
    """Which file each of a model's tensors is in."""

    weight_map: dict[str, str]


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int]


def check_hash(path: Path, model: str) -> None:
    """Compare a file of the hub's cache with the hash that the hub told. One that differs is removed.

    Raises `ConfigError` then. A file that is no link into the cache, which some file systems cannot have, has no name
    to compare with.
    """
    content = path.resolve()
    expected = content.name
    if _SHA256.fullmatch(expected):
        kind, found = "sha256", _digest(content, hashlib.sha256())
    elif _GIT_SHA1.fullmatch(expected):
        kind = "git hash"
        header = f"blob {content.stat().st_size}\0".encode()
        found = _digest(content, hashlib.sha1(header, usedforsecurity=False))
    else:
        return
    if found != expected:
        content.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise ConfigError(
            f"{path.name} of {model} is not what the hub says it is: its {kind} is {found}, not {expected}. It was "
            "removed: fetch the model again",
            path=str(path),
        )


def check_weights(directory: Path, model: str) -> None:
    """Raise `ConfigError`, with the names of the files, if weights are missing or were cut off."""
    files = sorted(directory.glob(WEIGHTS))
    index = directory / WEIGHTS_INDEX
    if index.is_file():
        parts = decode_json(read_limited(index, MODEL_CONFIG_BYTES_MAX), _Index, index).weight_map.values()
        missing = sorted(set(parts) - {path.name for path in files})
        if missing:
            raise ConfigError(
                f"{directory} has not all of {model}: {', '.join(missing)} missing. Fetch it again where the hub can "
                "be reached",
                path=str(directory),
            )
    if not files:
        raise ConfigError(
            f"{directory} has no weights of {model}: only those that are saved as {WEIGHTS} are fetched",
            path=str(directory),
        )
    for path in files:
        _check_safetensors(path)


def _check_safetensors(path: Path) -> None:
    """Raise `ConfigError` unless a file is as long as its header says."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if header_bytes > min(HEADER_BYTES_MAX, size_bytes - _LENGTH_BYTES):
            raise ConfigError(f"{path} is no whole safetensors file: it ends within its header", path=str(path))
        header = decode_json(file.read(header_bytes), dict[str, msgspec.Raw], path)
    header.pop("__metadata__", None)
    ends = [decode_json(bytes(raw), _Tensor, path).data_offsets[1] for raw in header.values()]
    expected_bytes = _LENGTH_BYTES + header_bytes + max(ends, default=0)
    if size_bytes != expected_bytes:
        raise ConfigError(
            f"{path} is no whole safetensors file: it has {size_bytes} bytes, and should have {expected_bytes}",
            path=str(path),
        )


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
