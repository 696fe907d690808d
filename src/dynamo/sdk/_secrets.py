"""Which values of a configuration nobody should see, and how they are shown instead."""

from __future__ import annotations

import re
import reprlib

HIDDEN = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = frozenset(
    {"token", "password", "passwd", "passphrase", "secret", "credential", "credentials", "apikey"}
)
_SECRET_KEYS = frozenset({"api", "secret", "access", "private", "encryption", "signing", "auth"})


def is_secret(key: str) -> bool:
    """Whether a key looks like that of a secret, by its last word: `hf_token` does, `max_tokens` does not."""
    words = [word.lower() for word in _WORD.findall(key)]
    return words[-1:] != [] and (
        words[-1] in _SECRET_WORDS or (words[-1] == "key" and bool(words[:-1]) and words[-2] in _SECRET_KEYS)
    )


def without_secrets(value: object, key: str = "") -> object:
    """Return a value in which everything under a key like that of a secret is hidden, at every depth."""
    if is_secret(key) and value is not None:
        return HIDDEN
    if isinstance(value, dict):
        # An environment variable may be written as {name: HF_TOKEN, value: ...}.
        named = value["name"] if set(value) == {"name", "value"} and isinstance(value["name"], str) else None
        return {
            name: without_secrets(entry, named if named is not None and name == "value" else name)
            for name, entry in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(entry) for entry in value]
    return value


def shown(key: str, value: object) -> str:
    """Return a value as an error shows it: short, and hidden if its key is that of a secret."""
    return reprlib.repr(without_secrets(value, key))
