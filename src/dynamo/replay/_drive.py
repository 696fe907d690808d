"""Sends the requests of a trace to a cluster, and notes how each of them fared.

Open loop: each at its time, however many run already. Closed loop: so many at a time, each as soon as there is room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError
from dynamo.llm import EngineOutput, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._routing import note_outputs
from dynamo.replay._cluster import MODEL, Cluster
from dynamo.replay._trace import TracedRequest

#: Of requests that have no end in sight so many are kept; those that come then are refused, as a server would.
OPEN_MAX = 8192


@dataclass(slots=True)
class Outcome:
    """How one request fared. Times are from the trace's begin; those that have not been are None."""

    sent_s: float
    input_length: int
    worker_id: int | None = None
    first_s: float | None = None
    end_s: float | None = None
    num_tokens: int = 0
    cached_tokens: int = 0
    #: The code of the error that it failed with.
    error: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has its whole answer."""
        return self.end_s is not None and self.error is None

    @property
    def ttft_s(self) -> float:
        assert self.first_s is not None
        return self.first_s - self.sent_s

    @property
    def itl_s(self) -> float | None:
        """The mean time from one token to the next; None if there is but one."""
        assert self.first_s is not None
        assert self.end_s is not None
        return (self.end_s - self.first_s) / (self.num_tokens - 1) if self.num_tokens > 1 else None


class Driver:
    """Sends the requests of one trace, once. What has become of them is in `outcomes`, also before `run` returns."""

    def __init__(self, requests: Sequence[TracedRequest], on_end: Callable[[], None] = lambda: None) -> None:
        self._requests = requests
        self._on_end = on_end
        self.outcomes: list[Outcome] = []
        self.num_ended = 0

    async def run(self, cluster: Cluster, *, speedup_ratio: float = 1.0, concurrency: int | None = None) -> None:
        """Send all, and return when all have ended. With a `concurrency` the times of the trace do not count."""
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        async with asyncio.TaskGroup() as sending:
            slots = None if concurrency is None else asyncio.Semaphore(concurrency)
            for serial, request in enumerate(self._requests):
                if slots is not None:
                    await slots.acquire()
                elif (wait_s := begin_s + request.arrival_s / speedup_ratio - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                sending.create_task(self._send(cluster, serial, request, begin_s, slots))

    async def _send(
        self,
        cluster: Cluster,
        serial: int,
        request: TracedRequest,
        begin_s: float,
        slots: asyncio.Semaphore | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        outcome = Outcome(loop.time() - begin_s, request.input_length)
        self.outcomes.append(outcome)
        try:
            if len(self.outcomes) - self.num_ended > OPEN_MAX:
                outcome.error = "overloaded"
            else:
                await _answer(cluster, serial, request, outcome, begin_s)
        except DynamoError as error:
            outcome.error = error.code
        finally:
            self.num_ended += 1
            outcome.end_s = loop.time() - begin_s
            if slots is not None:
                slots.release()
        self._on_end()


async def _answer(cluster: Cluster, serial: int, request: TracedRequest, outcome: Outcome, begin_s: float) -> None:
    """Do what a frontend does with a request; see `TokenPipeline`."""
    loop, migration = asyncio.get_running_loop(), cluster.migration
    prompt = PreprocessedRequest(
        MODEL,
        request.token_ids(serial),
        StopConditions(max_tokens=request.output_length, ignore_eos=True),
        SamplingOptions(temperature=0.0),
    )
    context = Context(f"request-{serial}")
    with migration.journey(migration.suspect(prompt), context) as journey:
        async with await journey.send(prompt, EngineOutput) as stream:
            while outputs := await stream.batch():
                journey.note_answer()
                if journey.route is not None:
                    note_outputs(journey.route, outputs)
                outcome.num_tokens += sum(len(output.token_ids) for output in outputs)
                if outcome.first_s is None:
                    outcome.first_s = loop.time() - begin_s
                    outcome.worker_id = stream.instance_id
                    outcome.cached_tokens = _cached_tokens(outputs[0])


def _cached_tokens(output: EngineOutput) -> int:
    usage = output.completion_usage
    return usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else 0
