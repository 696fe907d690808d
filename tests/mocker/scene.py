"""A scheduler without time: requests go in, and steps are done one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from tests.mocker.sink import NaiveSink

from dynamo.llm import PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.mocker import MockerConfig
from dynamo.mocker._answer import VOCABULARY, answer_to
from dynamo.mocker._block_pool import BlockPool
from dynamo.mocker._scheduler import Generated, Scheduler, Step
from dynamo.mocker._sequence import TokenSequence

STEPS_MAX = 10_000


def request(prompt: Sequence[int], max_tokens: int | None = 8, **stop: object) -> PreprocessedRequest:
    conditions = StopConditions(max_tokens=max_tokens, **stop)  # type: ignore[arg-type]
    return PreprocessedRequest("mock", list(prompt), conditions, SamplingOptions(temperature=0.0))


def expected(asked: PreprocessedRequest, vocabulary: range = VOCABULARY) -> list[int]:
    """What an answer that only `max_tokens` end has."""
    answer, begin = answer_to(asked, vocabulary), asked.num_resumed_tokens
    return [answer[begin + index] for index in range(asked.stop_conditions.max_tokens or 0)]


class Bench:
    """A scheduler with its blocks, whose events are replayed, and which is checked after every step."""

    def __init__(self, **settings: object) -> None:
        self.config = MockerConfig(**settings)  # type: ignore[arg-type]
        self.sink = NaiveSink(self.config.block_size)
        self.pool = BlockPool(self.config.num_gpu_blocks, self.sink)
        self.scheduler = Scheduler(self.config, self.pool)
        self.generated: dict[TokenSequence, list[Generated]] = {}

    def sequence(self, asked: PreprocessedRequest) -> TokenSequence:
        return TokenSequence(
            asked, block_size=self.config.block_size, max_context_length=self.config.max_context_length
        )

    def add(self, asked: PreprocessedRequest) -> TokenSequence:
        sequence = self.sequence(asked)
        self.scheduler.add(sequence)
        self.generated[sequence] = []
        return sequence

    def step(self) -> Step:
        step = self.scheduler.schedule()
        assert 0 < sum(count for _, count in step.parts) <= self.config.max_num_batched_tokens
        self.check()
        for one in self.scheduler.complete(step):
            self.generated[one.sequence].append(one)
        self.check()
        return step

    def run(self) -> list[Step]:
        """Do steps until there is nothing left to do."""
        steps: list[Step] = []
        while self.scheduler.has_work:
            steps.append(self.step())
            assert len(steps) < STEPS_MAX
        return steps

    def said(self, sequence: TokenSequence) -> list[int]:
        return [one.token_id for one in self.generated[sequence]]

    def reason(self, sequence: TokenSequence) -> str | None:
        """Why the answer ended; checks that nothing came after it."""
        reasons = [one.finish_reason for one in self.generated[sequence]]
        assert all(reason is None for reason in reasons[:-1])
        return reasons[-1] if reasons else None

    def check(self) -> None:
        self.scheduler.check()
        assert self.sink.block_hashes == self.pool.block_hashes
