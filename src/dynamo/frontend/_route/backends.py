"""The servers behind a route: which of them answer, which may get a request now, and what they serve.

Without I/O; time is passed in. Whoever sends a request, or checks a server, tells what became of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from dynamo.frontend._route.addresses import BackendAddress
from dynamo.runtime._quarantine import Fault, Quarantine

logger = logging.getLogger(__name__)

#: A server that says it is busy, and not for how long, gets nothing for so long; and whatever it says, for at most so.
REST_S = 1.0
REST_S_MAX = 60.0

#: So many models of one server are known.
MODELS_MAX = 1024

Models = Mapping[str, Mapping[str, object]]


@dataclass(slots=True)
class Backend:
    """One server."""

    id: int
    address: BackendAddress
    #: What its list of models says of each; None: it was not heard yet, or has no list.
    models: Models | None = None
    #: Whether it has answered, or failed, at all.
    is_known: bool = False
    #: Why it is passed over; empty if it is not.
    why_out: str = ""
    #: It asked to be left alone until then.
    rests_until: float = 0.0
    num_active: int = 0
    #: How many requests it answered, by status, and how many attempts failed, by what went wrong.
    answers: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    # Of the requests that wait for the first of their answers.
    _patience: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.address.url

    @property
    def is_well(self) -> bool:
        return self.is_known and not self.why_out

    def serves(self, model: str | None) -> bool:
        """Whether its list has a model; without a list nobody knows."""
        return model is not None and self.models is not None and model in self.models

    @contextmanager
    def waited_for(self, patience: asyncio.Timeout) -> Iterator[None]:
        """Within the block, a request waits for it as long as this timeout lets it: see `give_up`."""
        self._patience.add(patience)
        try:
            yield
        finally:
            self._patience.discard(patience)

    def give_up(self, now: float) -> None:
        """Let nobody wait any longer who has nothing of an answer: another server may give one."""
        for patience in self._patience:
            patience.reschedule(now)
        self._patience.clear()


class Backends:
    """All of them; their ids count from 1 in the order in which they were given. See `RoutedWorkers`."""

    def __init__(self, addresses: Sequence[BackendAddress], *, kv_blocks: int | None = None) -> None:
        self._backends = {number: Backend(number, address) for number, address in enumerate(addresses, 1)}
        self._ids = list(self._backends)
        self._runtime_config: dict[str, object] = {} if kv_blocks is None else {"total_kv_blocks": kv_blocks}
        self.quarantine = Quarantine()

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends.values())

    def __len__(self) -> int:
        return len(self._backends)

    def __getitem__(self, id: int) -> Backend:
        return self._backends[id]

    def instance_ids(self) -> list[int]:
        return self._ids

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        return self._runtime_config

    def candidates(self, model: str | None, tried: Collection[int], now: float) -> list[int]:
        """Return those that a request may go to now; none if all were tried, or want to be left alone.

        Those that list the model come into question if there are any, and otherwise all.
        """
        serving = [id for id, one in self._backends.items() if one.serves(model)] or self._ids
        free = [id for id in serving if id not in tried and self._backends[id].rests_until <= now]
        return self.quarantine.usable(free, now)

    def rests_s(self, now: float) -> float:
        """How long it is until the first of those that want to be left alone does not any more."""
        return min((one.rests_until - now for one in self if one.rests_until > now), default=0.0)

    def models(self) -> dict[str, Mapping[str, object]]:
        """What is served, by name; of a model that several serve, what the first of them says of it."""
        found: dict[str, Mapping[str, object]] = {}
        for one in self:
            for name, about in (one.models or {}).items():
                found.setdefault(name, about)
        return found

    def is_adapter(self, model: str) -> bool:
        """Whether a name is that of a LoRA adapter, which vLLM lists with the model that it belongs to."""
        return any(one.models[model].get("parent") for one in self if one.models is not None and model in one.models)

    def note_models(self, id: int, models: Models) -> None:
        """A server has listed its models."""
        backend = self._backends[id]
        kept = dict(islice(models.items(), MODELS_MAX))
        if len(kept) < len(models) and (backend.models is None or len(backend.models) < MODELS_MAX):
            logger.warning(
                "%s lists %d models, of which the first %d are known here", backend.url, len(models), MODELS_MAX
            )
        backend.models = kept

    def note_fault(self, id: int, fault: Fault, why: str, now: float, *, is_probe: bool) -> None:
        """A server did not answer, or failed."""
        backend = self._backends[id]
        self.quarantine.note_fault(id, fault, now, is_probe=is_probe)
        if not backend.why_out:
            logger.warning("%s is passed over: %s", backend.url, why)
        backend.is_known, backend.why_out = True, why

    def note_answer(self, id: int, mark: int) -> None:
        """A server has answered what it was asked when `quarantine.mark` was this."""
        self.quarantine.note_answer(id, mark)
        backend = self._backends[id]
        backend.is_known = True
        if backend.why_out and id not in self.quarantine:
            logger.info("%s answers again", backend.url)
            backend.why_out = ""

    def note_rest(self, id: int, rest_s: float | None, now: float) -> None:
        """A server is busy, and wants nothing for so long."""
        self._backends[id].rests_until = now + min(REST_S_MAX, REST_S if rest_s is None else rest_s)
