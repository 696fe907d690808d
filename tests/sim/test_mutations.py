"""The simulator finds what is wrong: each part that is made wrong here is noticed within a few seeds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from functools import partial

import pytest
from tests.sim.cached import CachedEngine
from tests.sim.discovery import DiscoveryServer, Feed, SimDiscovery
from tests.sim.engine import SimEngine
from tests.sim.host import Host
from tests.sim.loop import SimLoop
from tests.sim.simulate import Variant, simulate

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, FinishReason, KvPublisher, PreprocessedRequest
from dynamo.llm._kv_events import KvEventSink

SEEDS = range(16)
#: Later than any router may hear of a block.
LATE_S = 5.0


def found(variant: Variant, what: str) -> bool:
    """Whether a run of these seeds says so."""
    return any(what in wrong for seed in SEEDS for wrong in simulate(seed, variant=variant).wrongs)


class RepeatingEngine(SimEngine):
    """Says one token twice, now and then."""

    def output(
        self, batch: list[int], reason: FinishReason | None, request: PreprocessedRequest, num_tokens: int
    ) -> EngineOutput:
        if num_tokens == 5 and len(batch) > 1:
            batch[-1] = batch[-2]
        return super().output(batch, reason, request, num_tokens)


class LosingEngine(SimEngine):
    """Loses a token of long answers."""

    def output(
        self, batch: list[int], reason: FinishReason | None, request: PreprocessedRequest, num_tokens: int
    ) -> EngineOutput:
        return super().output(batch[1:] if num_tokens > 20 else batch, reason, request, num_tokens)


class FullEngine(SimEngine):
    """Gives no place back."""

    def leave(self, request_id: str) -> None:
        pass


class LeakingEngine(SimEngine):
    """Starts a task that nobody ends."""

    def __init__(self, rng: random.Random, pace_s: float) -> None:
        super().__init__(rng, pace_s)
        self.forgotten = asyncio.get_running_loop().create_task(asyncio.Event().wait())


class RaisingEngine(SimEngine):
    """Fails in a callback that nobody awaits."""

    def leave(self, request_id: str) -> None:
        super().leave(request_id)
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)


class EndlessEngine(SimEngine):
    """Gives no answer an end."""

    def output(
        self, batch: list[int], reason: FinishReason | None, request: PreprocessedRequest, num_tokens: int
    ) -> EngineOutput:
        return super().output(batch, None, request, num_tokens)


class DeafEngine(SimEngine):
    """Goes on when it is closed."""

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        asyncio.get_running_loop().call_later(500.0, lambda: None)
        async for output in super().generate(request, context):
            yield output


class SilentSink:
    """Passes on what is stored, and of what is removed nothing."""

    def __init__(self, sink: KvEventSink) -> None:
        self.stored = sink.stored
        self.cleared = sink.cleared

    def removed(self, block_hashes: Sequence[int]) -> None:
        pass


class HoardingEngine(CachedEngine):
    """Has routers believe that it keeps every block."""

    def told(self, publisher: KvPublisher) -> KvEventSink:
        return SilentSink(publisher)


class SlowSink:
    """Says everything, and late."""

    def __init__(self, sink: KvEventSink) -> None:
        self._sink = sink
        self._later = asyncio.get_running_loop().call_later

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        self._later(LATE_S, partial(self._sink.stored, parent_hash, block_hashes, tokens_hashes, token_ids=token_ids))

    def removed(self, block_hashes: Sequence[int]) -> None:
        self._later(LATE_S, self._sink.removed, block_hashes)

    def cleared(self) -> None:
        self._later(LATE_S, self._sink.cleared)


class LateEngine(CachedEngine):
    """Tells of its blocks long after it has them."""

    def told(self, publisher: KvPublisher) -> KvEventSink:
        return SlowSink(publisher)


class ForgetfulFeed(Feed):
    """Says of nothing that it is gone."""

    def add(self, key: str, value: bytes | None) -> None:
        if value is not None:
            super().add(key, value)


class ForgetfulParty(SimDiscovery):
    make_feed = ForgetfulFeed


class ForgetfulDiscovery(DiscoveryServer):
    """A discovery that forgets what was deleted."""

    make_party = ForgetfulParty


class SlowToSayFeed(Feed):
    """Takes it that the reader was told before it was."""

    def add(self, key: str, value: bytes | None) -> None:
        super().add(key, value)
        if value is None:
            self.known.pop(key, None)


class SlowToSayParty(SimDiscovery):
    make_feed = SlowToSayFeed


class SlowToSayDiscovery(DiscoveryServer):
    """Makes every client one that calls an instance of whose removal it was told."""

    make_party = SlowToSayParty

    def __init__(self, loop: SimLoop) -> None:
        super().__init__(loop)
        self.lag_s = (2.0, 4.0)


class KeepingParty(SimDiscovery):
    """Does not end its leases."""

    async def close(self) -> None:
        for feed in list(self.feeds):
            feed.watch.close()
            self._forget(feed)

    async def end(self, lease: object) -> None:
        pass


class KeepingDiscovery(DiscoveryServer):
    make_party = KeepingParty


class SilentDiscovery(DiscoveryServer):
    """Answers one host no more, even after all has healed."""

    def is_reached_by(self, host: Host) -> bool:
        return super().is_reached_by(host) and not (host.name == "worker-1" and self.loop.time() > 1015.0)


@pytest.mark.parametrize(
    ("variant", "what"),
    [
        (Variant(make_engine=RepeatingEngine), "not"),
        (Variant(make_engine=LosingEngine), "not"),
        (Variant(make_engine=FullEngine), "places taken"),
        (Variant(make_engine=LeakingEngine), "still runs"),
        (Variant(make_engine=RaisingEngine), "division by zero"),
        (Variant(make_engine=EndlessEngine), "no_finish"),
        (Variant(make_engine=DeafEngine), "still waits for"),
        (Variant(make_cached=HoardingEngine), "blocks of"),
        (Variant(make_cached=LateEngine), "blocks of"),
        (Variant(make_discovery=ForgetfulDiscovery), "knows the instances"),
        (Variant(make_discovery=SlowToSayDiscovery), "removal it had been told"),
        (Variant(make_discovery=KeepingDiscovery), "still has the lease"),
        (Variant(make_discovery=SilentDiscovery), "knows the instances"),
    ],
    ids=lambda value: value if isinstance(value, str) else _name_of(value),
)
def test_what_is_wrong_is_found(variant: Variant, what: str) -> None:
    assert found(variant, what)


def _name_of(variant: Variant) -> str:
    usual = Variant()
    [made] = {variant.make_engine, variant.make_cached, variant.make_discovery} - {
        usual.make_engine,
        usual.make_cached,
        usual.make_discovery,
    }
    return getattr(made, "__name__", str(made))
