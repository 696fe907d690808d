"""Whether workers keep their word: what they answer, held against what they were asked.

What breaks the contract of `EngineOutput`, or that of the OpenAI chunks of a worker that takes text, is counted by
kind, and told in the log once a minute for each model and kind, with the worker and the request. If the client can
be given its whole answer all the same, it is: what is wrong is left out, and the frontend's own count is the usage.
If not, it is an error whose code is the kind, for how much of the answer is right is unknown.

With `DYN_STRICT_CONTRACTS=1` everything that is wrong is an error, which is how the tests run.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dynamo._core.errors import ConfigError, ProtocolError
from dynamo.llm._limits import MODEL_CONFIG_BYTES_MAX
from dynamo.llm._model_card import ModelCard
from dynamo.llm._model_files import CONFIG, decode_json, read_limited
from dynamo.llm._tokenizer import Tokenizer
from dynamo.runtime._settings import parse_bool

log = logging.getLogger(__name__)

STRICT_VARIABLE = "DYN_STRICT_CONTRACTS"
TOLD_EVERY_S = 60.0


class Violation(enum.StrEnum):
    """What a worker did wrong, and what becomes of it."""

    #: A part of an answer that nobody asked for: an error.
    WRONG_INDEX = "wrong_index"
    #: A token that the model does not have: an error.
    TOKEN_OUT_OF_RANGE = "token_out_of_range"
    #: More than `max_tokens`: the answer has so many, and ends with "length".
    TOO_MANY_TOKENS = "too_many_tokens"
    #: More after the finish reason: left out.
    AFTER_FINISH = "after_finish"
    #: The end without a finish reason: "length" if there are `max_tokens`, else an error.
    NO_FINISH = "no_finish"
    #: Counts that cannot be: our own count is told.
    WRONG_USAGE = "wrong_usage"
    #: Log probabilities that are no numbers, or not one for each token: an error, if they were asked for.
    WRONG_LOG_PROBS = "wrong_log_probs"
    #: Something that is no answer at all: an error, whose code is that of all bytes that cannot be read.
    UNREADABLE = "unreadable"


def is_strict(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment says that everything wrong is an error. Raises `ConfigError` if it says neither."""
    text = environ.get(STRICT_VARIABLE, "")
    try:
        return bool(text) and parse_bool(text)
    except ValueError:
        raise ConfigError(
            f"{STRICT_VARIABLE}={text!r} is not true or false: use 1 or 0", setting=STRICT_VARIABLE
        ) from None


@dataclass(slots=True)
class ContractStats:
    """What was wrong, by model: the numbers behind `dynamo_frontend_model_contract_violations_total`."""

    violations: Counter[tuple[str, Violation]] = field(default_factory=Counter)
    strict: bool = field(default_factory=is_strict)
    # When each was told last, and how often it had been by then.
    _told: dict[tuple[str, Violation], tuple[float, int]] = field(default_factory=dict)

    def add_model(self, model: str) -> None:
        """Begin to count for a model, from 0."""
        for kind in Violation:
            self.violations[model, kind] += 0

    def note(self, model: str, kind: Violation, what: str, instance: str, request_id: str) -> None:
        """Count it, and say so unless that was done within the last minute."""
        self.violations[model, kind] += 1
        count, now = self.violations[model, kind], asyncio.get_running_loop().time()
        told_at, told = self._told.get((model, kind), (-math.inf, 0))
        if now - told_at >= TOLD_EVERY_S:
            self._told[model, kind] = now, count
            log.error(
                "a worker of the model %r broke its contract (%s, %d times since that was last said): "
                "instance %s, in request %s, %s",
                model, kind.value, count - told, instance, request_id, what,
            )  # fmt: skip


class Source(Protocol):
    """Whoever answers."""

    @property
    def instance_id(self) -> int:
        """Known once something of the answer has come."""


class ResponseCheck:
    """What is wrong with one answer, however many workers have a part in it."""

    __slots__ = ("_model", "_raised", "_request_id", "_stats", "source")

    def __init__(self, stats: ContractStats, model: str, request_id: str) -> None:
        self._stats = stats
        self._model = model
        self._request_id = request_id
        # What was counted is not counted again where it is caught.
        self._raised: ProtocolError | None = None
        #: Who answers now.
        self.source: Source | None = None

    @property
    def is_strict(self) -> bool:
        """Whether everything wrong is an error."""
        return self._stats.strict

    def note(self, kind: Violation, what: str) -> None:
        """Count it; the rest is the caller's."""
        instance = "unknown" if self.source is None else f"{self.source.instance_id:x}"
        self._stats.note(self._model, kind, what, instance, self._request_id)

    def tolerate(self, kind: Violation, what: str) -> None:
        """Count what the answer can do without. Raises `ProtocolError` where everything wrong is an error."""
        error = self.broken(kind, what)
        if self._stats.strict:
            raise error

    def broken(self, kind: Violation, what: str) -> ProtocolError:
        """Count it, and return the error that it is."""
        self.note(kind, what)
        self._raised = ProtocolError(f"the worker {what}", code=kind.value)
        return self._raised

    def note_unreadable(self, error: BaseException) -> None:
        """Count what could not be read of an answer, of all that it may have failed of."""
        if isinstance(error, ProtocolError) and not error.is_remote and error is not self._raised:
            self.note(Violation.UNREADABLE, f"sent what cannot be read: {error}")


def token_id_end(card: ModelCard, tokenizer: Tokenizer) -> int:
    """Return what all token ids of a model are below. Blocks while a small file is read.

    A model may have more of them than its tokenizer has words for, as its `config.json` says; they have no text.
    """
    path = Path(card.source_path) / CONFIG
    try:
        config = decode_json(read_limited(path, MODEL_CONFIG_BYTES_MAX), dict[str, object], path)
    except (OSError, ConfigError) as error:
        log.info(
            "%s: its tokens are those of its tokenizer, for its config cannot be read: %s", card.display_name, error
        )
        return tokenizer.vocab_size
    inner = config.get("text_config")
    configs = [config, *([inner] if isinstance(inner, dict) else [])]
    sizes = [size for one in configs if isinstance(size := one.get("vocab_size"), int)]
    return max(tokenizer.vocab_size, *sizes)
