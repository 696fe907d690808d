"""An overload in numbers: how much is still served, how fast the others are refused, and what retries add."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tests.system.cluster import Cluster
from tests.system.exact import why_not_exact
from tests.system.streams import Answer, ask, client_of

LIMITED = "tests.system.limited_worker"
WORKERS = 3
#: Requests that a worker answers at a time, and as many may wait. Each takes so many tokens, with so long between.
REQUESTS_PER_WORKER = 4
TOKENS = 20
TOKEN_DELAY_S = 0.02
#: Requests come so many times faster than they can be served.
TIMES = 5
#: Nothing counts before so long: the first answers are on their way.
WARM_UP_S = 1.0
#: Pools of connections of those who ask.
NUM_POOLS = 16


@dataclass
class Overload:
    """What clients saw of it."""

    #: Answers in a second when clients ask no faster than they are answered.
    peak_per_s: float = 0.0
    #: Answers in a second beneath the overload.
    goodput_per_s: float = 0.0
    #: Requests that reached workers for each one that clients sent.
    amplification: float = 0.0
    #: How long each refusal took.
    refusals_s: list[float] = field(default_factory=list)
    num_answers: int = 0
    #: Answers that were not exact, and refusals that were not as they should be.
    wrong: list[str] = field(default_factory=list)


async def overload(made: Cluster, length_s: float, rng: random.Random) -> Overload:
    """Find out how much the workers can serve, and then ask for `TIMES` as much."""
    limits = ("--max-concurrent-requests", str(REQUESTS_PER_WORKER), "--max-queued-requests", str(REQUESTS_PER_WORKER))
    await made.add_workers(WORKERS, *limits, "--token-delay-s", str(TOKEN_DELAY_S), module=LIMITED)
    await made.routable(WORKERS)
    outcome = Overload()
    outcome.peak_per_s = _take(outcome, await _peak(made, length_s), length_s)
    answers = await _flood(made, length_s, TIMES * outcome.peak_per_s, rng)
    outcome.goodput_per_s = _take(outcome, answers, length_s)
    num_came = sum([await worker.num_requests(made.client) for worker in made.workers])
    outcome.amplification = num_came / outcome.num_answers
    return outcome


async def _peak(made: Cluster, length_s: float) -> dict[str, Answer]:
    """Let as many clients as there are places ask again and again; return the answers by their prompts."""
    loop = asyncio.get_running_loop()
    over_at = loop.time() + length_s
    answers: dict[str, Answer] = {}

    async def one(name: int) -> None:
        number = 0
        while loop.time() < over_at:
            number += 1
            prompt = f"peak {name} {number}"
            answers[prompt] = await made.ask(prompt, TOKENS)

    await asyncio.gather(*(one(name) for name in range(2 * REQUESTS_PER_WORKER * WORKERS)))
    return answers


async def _flood(made: Cluster, length_s: float, per_s: float, rng: random.Random) -> dict[str, Answer]:
    """Send requests at random moments, whatever becomes of those before; return the answers by their prompts."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    answers: dict[str, Answer] = {}
    async with AsyncExitStack() as stack:
        # One pool looks at all of its connections for each request, which would take longer than the request.
        url = str(made.client.base_url)
        clients = [await stack.enter_async_context(client_of(url)) for _ in range(NUM_POOLS)]

        async def one(number: int) -> None:
            prompt = f"flood {number}"
            answers[prompt] = await ask(clients[number % NUM_POOLS], prompt, TOKENS)

        async with asyncio.TaskGroup() as asking:
            number, due_s = 0, 0.0
            while due_s < length_s:
                number += 1
                asking.create_task(one(number))
                due_s += rng.expovariate(per_s)
                await asyncio.sleep(began_at + due_s - loop.time())
    return answers


def _take(outcome: Overload, answers: dict[str, Answer], length_s: float) -> float:
    """Check answers, which is too much work to be done while others are on their way; return how many came a second."""
    began_at = min(answer.started_at for answer in answers.values())
    num_counted = 0
    for prompt, answer in answers.items():
        outcome.num_answers += 1
        if answer.status == 503:
            outcome.refusals_s.append(answer.took_s)
            reason = _why_no_refusal(answer)
        else:
            reason = why_not_exact(answer, prompt, TOKENS)
            num_counted += reason is None and WARM_UP_S <= answer.ended_at - began_at < length_s
        if reason is not None:
            outcome.wrong.append(f"{prompt!r}: {reason}")
    return num_counted / (length_s - WARM_UP_S)


def _why_no_refusal(answer: Answer) -> str | None:
    """Say what is wrong with an answer that must be a refusal; None if nothing is."""
    if answer.error is None or answer.error.code != "overloaded":
        return f"refused with {answer.error}"
    if not float(answer.headers.get("retry-after", "0")) > 0:
        return "refused without the time to come again"
    return None
