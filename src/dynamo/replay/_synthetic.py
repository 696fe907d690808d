"""Traces that are made up, with the statistics of those that were published.

`conversation` and `toolagent` have the mean lengths, the rate and the share of repeated blocks that the authors of
Mooncake give for their traces of these names (FAST '25, table 2): 12,035 tokens in, 343 out and 40 %, and 8,596, 182
and 59 %; 12,031 and 23,608 requests an hour. The lengths are log-normal, arrivals are a Poisson process, and
conversations go on after a pause. What is not published, the spread of the lengths, the pauses, and how many agents
there are, is chosen here. So these are no recordings: who has a recording replays that.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count, islice

from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import beta
from dynamo.replay._trace import BLOCK_SIZE, TracedRequest

#: No prompt is longer, and none is shorter.
INPUT_LENGTH_MAX, INPUT_LENGTH_MIN = 120_000, 64
OUTPUT_LENGTH_MAX = 2_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a trace is made. Lengths are means, in tokens."""

    requests_per_s: float
    #: What all requests of an agent begin with, how far these lengths spread, and how many agents there are. Some are
    #: asked far more often than others.
    system_prompt: int
    system_prompt_sigma: float = 0.0
    num_agents: int = 1
    #: What the first request of a conversation adds to that, and each that follows to the one before it.
    first_input: int
    next_input: int = 0
    input_sigma: float = 1.0
    output: int
    output_sigma: float = 0.8
    #: Requests of a conversation, and the pause from one to the next.
    num_turns: float = 1.0
    pause_s: float = 30.0


#: By name.
SHAPES = {
    "conversation": Shape(
        requests_per_s=12_031 / 3600, system_prompt=512, first_input=9_900, next_input=2_300, output=343,
        num_turns=1.65, pause_s=40.0,
    ),
    "toolagent": Shape(
        requests_per_s=23_608 / 3600, system_prompt=5_000, system_prompt_sigma=0.5, num_agents=64, first_input=3_900,
        next_input=800, output=182, num_turns=1.2, pause_s=15.0,
    ),
    "no-reuse": Shape(requests_per_s=3.0, system_prompt=0, first_input=12_035, output=343),
    "shared-system-prompt": Shape(requests_per_s=10.0, system_prompt=4_096, first_input=1_500, output=343),
}  # fmt: skip


@beta(since="0.1")
def synthetic_trace(name: str, num_requests: int, seed: int = 0) -> list[TracedRequest]:
    """Return a trace of one of `SHAPES`. Raises `InvalidArgument` for a name that none has."""
    shape = SHAPES.get(name)
    if shape is None:
        raise InvalidArgument(f"there is no synthetic trace {name!r}; there are {', '.join(SHAPES)}")
    return list(islice(_Maker(shape, random.Random(f"{name} {seed}")).requests(), num_requests))


class _Conversation:
    """What was said so far: its blocks, and how long it is."""

    def __init__(self, agent: _Agent) -> None:
        self.hash_ids = list(agent.hash_ids)
        self.num_tokens = agent.num_tokens

    def grow(self, num_tokens: int, new_id: Callable[[], int]) -> None:
        """Go on for so many tokens: a block that was not full is another one now."""
        num_full = self.num_tokens // BLOCK_SIZE
        self.num_tokens += num_tokens
        num_blocks = -(-self.num_tokens // BLOCK_SIZE)
        del self.hash_ids[num_full:]
        self.hash_ids += [new_id() for _ in range(num_blocks - num_full)]


@dataclass(frozen=True)
class _Agent:
    hash_ids: list[int]
    num_tokens: int


class _Maker:
    """Makes the requests of one trace."""

    def __init__(self, shape: Shape, rng: random.Random) -> None:
        self._shape = shape
        self._rng = rng
        self._ids = count()
        self._agents = [self._agent() for _ in range(shape.num_agents)]
        # The n-th agent is asked 1 / n as often as the first.
        self._shares = list(accumulate(1 / rank for rank in range(1, shape.num_agents + 1)))

    def requests(self) -> Iterator[TracedRequest]:
        """Yield requests for ever, in the order in which they come."""
        shape, rng = self._shape, self._rng
        serial = count()
        next_begin_s = 0.0
        # Conversations that go on, by when they do.
        waiting: list[tuple[float, int, _Conversation]] = []
        while True:
            if waiting and waiting[0][0] <= next_begin_s:
                arrival_s, _, conversation = heapq.heappop(waiting)
                added = self._length(shape.next_input, shape.input_sigma)
            else:
                arrival_s = next_begin_s
                next_begin_s += rng.expovariate(shape.requests_per_s / shape.num_turns)
                conversation = _Conversation(rng.choices(self._agents, cum_weights=self._shares)[0])
                added = self._length(shape.first_input, shape.input_sigma)
            room = INPUT_LENGTH_MAX - conversation.num_tokens
            conversation.grow(max(INPUT_LENGTH_MIN, min(added, room)), self._new_id)
            output = min(OUTPUT_LENGTH_MAX, self._length(shape.output, shape.output_sigma))
            yield TracedRequest(arrival_s, conversation.num_tokens, output, list(conversation.hash_ids))
            if conversation.num_tokens < INPUT_LENGTH_MAX and rng.random() < 1 - 1 / shape.num_turns:
                conversation.grow(output, self._new_id)
                heapq.heappush(waiting, (arrival_s + rng.expovariate(1 / shape.pause_s), next(serial), conversation))

    def _agent(self) -> _Agent:
        shape = self._shape
        # Whole blocks, so that what is added begins with a block of its own.
        length = self._length(shape.system_prompt, shape.system_prompt_sigma) if shape.system_prompt else 0
        num_blocks = round(length / BLOCK_SIZE)
        return _Agent([self._new_id() for _ in range(num_blocks)], num_blocks * BLOCK_SIZE)

    def _length(self, mean: int, sigma: float) -> int:
        return max(1, round(self._rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)))

    def _new_id(self) -> int:
        return next(self._ids)
