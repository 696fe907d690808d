"""Which values of a configuration nobody should see, and how they are shown instead."""

from __future__ import annotations

import itertools
import re
import reprlib

HIDDEN = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = frozenset(
    {"password", "passwords", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "apikey"}
    | {"apikeys", "authorization"}
)
#: A key or token that one of these words goes before is secret.
_SECRET_KINDS = frozenset(
    {"api", "secret", "access", "private", "encryption", "signing", "auth", "bearer", "refresh", "hf"}
)
_KEYS = frozenset({"key", "keys", "token", "tokens"})
#: A key that ends with one of these says something about a secret: where it is, or how long.
_ABOUT = frozenset({"file", "path", "dir", "name", "id", "ids", "length", "size", "count", "limit", "type", "url"})

#: User and password in front of a host.
_LOGIN = re.compile(r"(?<=://)[^\s:/@]*:\S+(?=@)")


def is_secret(key: str) -> bool:
    """Whether a key looks like that of a secret: `hf_token` and `API_KEY_PROD` do, `max_tokens` does not."""
    words = [word.lower() for word in _WORD.findall(key)]
    if not words or words[-1] in _ABOUT:
        return False
    pairs = itertools.pairwise(words)
    return (
        words[-1] == "token"
        or not _SECRET_WORDS.isdisjoint(words)
        or any(kind in _SECRET_KINDS and word in _KEYS for kind, word in pairs)
    )


def without_secrets(value: object, key: str = "") -> object:
    """Return a value in which everything under a key like that of a secret is hidden, at every depth.

    So is who logs in where a text has URLs.
    """
    if is_secret(key) and value is not None:
        return HIDDEN
    if isinstance(value, dict):
        # An environment variable may be written as {name: HF_TOKEN, value: ...}.
        named = value["name"] if set(value) == {"name", "value"} and isinstance(value["name"], str) else None
        return {
            name: without_secrets(entry, named if named is not None and name == "value" else str(name))
            for name, entry in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(entry) for entry in value]
    if isinstance(value, str):
        return _LOGIN.sub(HIDDEN, value)
    return value


def shown(key: str, value: object) -> str:
    """Return a value as an error shows it: short, and hidden if its key is that of a secret."""
    return reprlib.repr(without_secrets(value, key))
