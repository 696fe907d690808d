"""What workers can do and frontends know: how one side says it, and the other goes by it.

A worker's model card lists what its engine can do that a request may ask for. A frontend ignores the names that it does
not know, and refuses a request, by name, that asks for what one of the model's workers has not listed. A card without
a list is of a worker that does not tell, and is taken to be able to do everything.

The other way round, a card lists what a frontend must know to serve the worker as it wants to be served. One that
does not know it does not serve the worker, and says what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo.llm._model_card import ModelCard, ModelInput, ModelType
from dynamo.llm._numbers import shown

if TYPE_CHECKING:
    from dynamo.llm._openai import OpenAIRequest

#: What a worker can be asked for that has a route in a frontend.
SERVED_TYPES = ModelType.Chat | ModelType.Completions
#: What a worker may take.
SERVED_INPUTS = (ModelInput.Tokens, ModelInput.Text)

#: What this frontend knows of what cards may require.
ADVERTISED_ROUTER = "router_config"
KNOWN_REQUIREMENTS = frozenset({ADVERTISED_ROUTER})

CAPABILITIES_MAX = 64

#: The values of penalties that penalize nothing.
_NO_PENALTIES = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1}


def _penalty(request: OpenAIRequest) -> str | None:
    return next((name for name, none in _NO_PENALTIES.items() if getattr(request, name) not in (None, none)), None)


#: What requests may ask for: the field with which a request does so; None if it does not.
_ASKS: Mapping[str, Callable[[OpenAIRequest], str | None]] = {
    "logprobs": lambda request: None if request.logprobs_count is None else "logprobs",
    "seed": lambda request: None if request.seed is None else "seed",
    "penalties": _penalty,
    "cache_salt": lambda request: "cache_salt" if request.salt else None,
}
#: What a worker may say that it can do: what requests ask for, and that it publishes what is in its KV cache.
KNOWN_CAPABILITIES = (*_ASKS, "kv_events")

_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,63}")


def check_capabilities(names: Iterable[str]) -> list[str]:
    """Return capabilities for a card, each once. Raises `ConfigError` for what is no name of one."""
    given = list(dict.fromkeys(names))
    for name in given:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{shown(name)} is no name of a capability: use lower-case letters, digits and _ . -, such as "
                f"{', '.join(KNOWN_CAPABILITIES)}",
                setting="capabilities",
            )
    if len(given) > CAPABILITIES_MAX:
        raise ConfigError(f"there are {len(given)} capabilities: at most {CAPABILITIES_MAX}", setting="capabilities")
    return given


def common_capabilities(cards: Iterable[ModelCard]) -> frozenset[str] | None:
    """What all workers with these cards can do; None: everything."""
    common: frozenset[str] | None = None
    for card in cards:
        if card.capabilities is not None:
            own = frozenset(card.capabilities)
            common = own if common is None else common & own
    return common


def check_asked(model: str, capabilities: frozenset[str] | None, request: OpenAIRequest) -> None:
    """Raise `InvalidArgument` if a request asks for what not all workers of the model can do."""
    if capabilities is None:
        return
    for capability, asked in _ASKS.items():
        if capability not in capabilities and (param := asked(request)) is not None:
            raise InvalidArgument(
                f"the workers of the model {model!r} cannot do {capability!r}, which {param!r} asks for: leave it out",
                param=param,
                code="capability_missing",
                capability=capability,
            )


def why_unserved(card: ModelCard) -> str | None:
    """Say why no frontend of this version can serve a worker with this card; None if one can."""
    if unknown := sorted(set(card.requires) - KNOWN_REQUIREMENTS):
        return f"it requires {', '.join(map(repr, unknown))} of the frontend, which does not know it"
    if not card.model_type & SERVED_TYPES:
        kind = str(card.model_type) or "nothing"
        return f"it serves {kind}, for which there is no route; there are routes for {SERVED_TYPES}"
    if card.model_input not in SERVED_INPUTS:
        inputs = " or ".join(one.value for one in SERVED_INPUTS)
        return f"it takes {card.model_input.value}, and frontends send {inputs}"
    return None


def check_servable(card: ModelCard) -> None:
    """Raise `ConfigError` for a worker's own card if there is anything in it that no frontend could serve."""
    name = card.display_name
    if why := why_unserved(card):
        raise ConfigError(f"the model {name!r} cannot be registered: {why}", model=name)
    if other := card.model_type & ~SERVED_TYPES:
        raise ConfigError(
            f"the model {name!r} cannot be registered for {other}: there are routes for {SERVED_TYPES} only",
            model=name,
            setting="model_type",
        )
    if ModelType.Chat in card.model_type and card.model_input is ModelInput.Tokens and card.chat_template is None:
        raise ConfigError(
            f"the model {name!r} has no chat template and cannot be registered for chat: give a template "
            "(custom_template_path), or register it for completions only (model_type)",
            model=name,
            setting="model_type",
        )
