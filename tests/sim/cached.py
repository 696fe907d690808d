"""Workers with a KV cache: the mocker's engine at the pace of the seed, its publisher, and what it held lately.

So small a cache is full now and then: blocks are shared, evicted, and stored again under the same names.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import reduce
from operator import xor

from tests.oracle import FIRST_TOKEN_ID
from tests.oracle import VOCABULARY as NUM_TOKENS
from tests.sim.engine import SimEngine

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, KvPublisher, PreprocessedRequest
from dynamo.llm._kv_events import KvEventSink
from dynamo.mocker import MockerConfig, MockerEngine
from dynamo.mocker._answer import answer_to
from dynamo.mocker._timing import StepWork
from dynamo.runtime import Endpoint

BLOCK_SIZE = 4
#: Room for the longest request, and little more.
CONFIG = MockerConfig(
    block_size=BLOCK_SIZE, num_gpu_blocks=350, max_context_length=1400, max_num_seqs=32, max_num_batched_tokens=64
)
RUNTIME_CONFIG: dict[str, object] = {**MockerEngine(CONFIG).runtime_config, "kv_events": True}
VOCABULARY = range(FIRST_TOKEN_ID, FIRST_TOKEN_ID + NUM_TOKENS)
#: What a router has not heard yet may be so old: an event's way through the air, and a question.
LAG_S = 1.0
HISTORY_MAX = 8192


@dataclass(frozen=True)
class Pace:
    """A step takes about `pace_s`, whatever is in it. A `TimingModel`."""

    rng: random.Random
    pace_s: float

    def prefill_s(self, work: StepWork) -> float:
        return 0.0 if work.num_decodes else self.pace_s

    def decode_s(self, work: StepWork) -> float:
        return self.pace_s * self.rng.uniform(0.0, 2.0)


def digest_of(block_hashes: Sequence[int] | frozenset[int]) -> int:
    """A number for a set of blocks, in whatever order they came."""
    return reduce(xor, block_hashes, 0)


class History:
    """What a cache held, change by change. A `KvEventSink` that passes everything on."""

    def __init__(self, sink: KvEventSink) -> None:
        self._sink = sink
        self._time = asyncio.get_running_loop().time
        self._digest = 0
        # When the cache came to hold what has this digest.
        self._changes: deque[tuple[float, int]] = deque([(self._time(), 0)], HISTORY_MAX)

    def was_lately(self, digest: int) -> bool:
        """Whether the cache held this at some time within the last `LAG_S`."""
        until_s = self._time()
        for at_s, one in reversed(self._changes):
            if one == digest:
                return True
            if at_s < until_s - LAG_S:
                return False
        return False

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        self._note(self._digest ^ digest_of(block_hashes))
        self._sink.stored(parent_hash, block_hashes, tokens_hashes, token_ids=token_ids)

    def removed(self, block_hashes: Sequence[int]) -> None:
        self._note(self._digest ^ digest_of(block_hashes))
        self._sink.removed(block_hashes)

    def cleared(self) -> None:
        self._note(0)
        self._sink.cleared()

    def _note(self, digest: int) -> None:
        self._digest = digest
        self._changes.append((self._time(), digest))


class CachedEngine(SimEngine):
    """The mocker's engine, whose blocks routers hear of."""

    kv_cache_block_size = BLOCK_SIZE
    context_length = CONFIG.max_context_length
    runtime_config = RUNTIME_CONFIG

    def __init__(self, rng: random.Random, pace_s: float) -> None:
        super().__init__(rng, pace_s)
        self._mocker: MockerEngine | None = None
        self._publisher: KvPublisher | None = None
        self._history: History | None = None

    @staticmethod
    def expected_tokens(request: PreprocessedRequest) -> list[int]:
        answer = answer_to(request, VOCABULARY)
        room = CONFIG.max_context_length - len(request.token_ids)
        return [answer[index] for index in range(min(request.stop_conditions.max_tokens or room, room))]

    def start(self, endpoint: Endpoint) -> None:
        """Begin with nothing in the cache, as the worker at `endpoint`."""
        self._publisher = KvPublisher(endpoint, kv_block_size=BLOCK_SIZE)
        self._history = History(self.told(self._publisher))
        self._mocker = MockerEngine(
            CONFIG, timing=Pace(self._rng, self._pace_s), kv_event_sinks=[self._history], vocabulary=VOCABULARY
        )

    def told(self, publisher: KvPublisher) -> KvEventSink:
        """What is told of every change; a test overrides it to have something left out."""
        return publisher

    async def restart(self) -> None:
        """Fail all requests and begin anew within the same process, as another start of the publisher."""
        publisher = self._publisher
        if publisher is not None:
            await self.close()
            self.start(publisher.endpoint)

    async def close(self) -> None:
        assert self._mocker is not None
        assert self._publisher is not None
        await self._mocker.close()
        await self._publisher.close()

    def was_lately(self, digest: int) -> bool:
        """See `History`."""
        return self._history is not None and self._history.was_lately(digest)

    @property
    def block_hashes(self) -> frozenset[int]:
        """What is in the cache."""
        assert self._mocker is not None
        return self._mocker.block_hashes()

    def wrongs(self) -> list[str]:
        """What is wrong with it when nothing runs."""
        mocker, publisher = self._mocker, self._publisher
        assert mocker is not None
        assert publisher is not None
        mocker.check()
        wrongs = []
        if num_requests := mocker.num_requests_running + mocker.num_requests_waiting:
            wrongs.append(f"has {num_requests} requests in its engine")
        if publisher.num_blocks != len(self.block_hashes):
            wrongs.append(f"tells of {publisher.num_blocks} blocks and holds {len(self.block_hashes)}")
        return wrongs

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        assert self._mocker is not None
        self.enter(context.request_id)
        try:
            async with aclosing(self._mocker.generate(request, context)) as outputs:
                async for output in outputs:
                    await self._going.wait()
                    yield output
        finally:
            self.leave(context.request_id)
