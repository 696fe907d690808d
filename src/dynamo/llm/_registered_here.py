"""What this process has registered: so that a model that nobody serves, or that is not there, does not go unnoticed."""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary, ref

from dynamo._core.address import EndpointId
from dynamo.runtime import DistributedRuntime, Endpoint

#: A program may register first and serve then; this long after, it is told that it does not serve.
SERVED_WITHIN_S = 10.0

logger = logging.getLogger(__name__)

#: By the key of each model's card, since workers of one process may share an endpoint: when it is looked whether
#: somebody serves it.
_looks: WeakKeyDictionary[DistributedRuntime, dict[str, asyncio.TimerHandle]] = WeakKeyDictionary()


def note_registered(endpoint: Endpoint, model: str) -> None:
    """A model was registered at an endpoint: the log is to tell if that is not served soon."""
    note_unregistered(endpoint)
    loop = asyncio.get_running_loop()
    look = loop.call_later(SERVED_WITHIN_S, _warn_unless_served, ref(endpoint.runtime), endpoint.id, model)
    _looks.setdefault(endpoint.runtime, {})[_key(endpoint)] = look


def note_unregistered(endpoint: Endpoint) -> bool:
    """The model at an endpoint is taken back. Returns whether there was one."""
    look = _looks.get(endpoint.runtime, {}).pop(_key(endpoint), None)
    if look is not None:
        look.cancel()
    return look is not None


def _key(endpoint: Endpoint) -> str:
    return endpoint.id.model_card_key(endpoint.lease_id())


def _warn_unless_served(runtime_of: ref[DistributedRuntime], id: EndpointId, model: str) -> None:
    runtime = runtime_of()
    if runtime is None or runtime.primary_token().is_cancelled() or any(one.id == id for one in runtime.served()):
        return
    logger.warning(
        "the model %r was registered at %s %g s ago, and this process does not serve that endpoint: requests for the "
        "model find nobody here. Call serve_engine(endpoint, engine), or unregister_llm(endpoint)",
        model,
        id,
        SERVED_WITHIN_S,
    )
