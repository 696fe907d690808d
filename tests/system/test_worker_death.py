"""Workers that die: what they were answering goes on elsewhere, exactly where it was."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from tests.system.cluster import Cluster, Worker, cluster
from tests.system.exact import assert_exact, expected_text, prompt_token_ids
from tests.system.programs import DEADLINE_S, until
from tests.system.streams import Answer

PAUSE_S_MAX = 1.0


async def _kill_its_worker_after(made: Cluster, prompt: str, max_tokens: int, num_pieces: int) -> Answer:
    """Ask, and kill the worker that answers when so many pieces have come."""
    killed = False
    made.slow()  # there must be something left of it

    async def kill(answer: Answer) -> None:
        nonlocal killed
        if not killed and len(answer.pieces) >= num_pieces:
            killed = True
            victim = await made.busiest()
            await victim.kill()
            made.hurry()
            await made.remove(victim)

    answer = await made.ask(prompt, max_tokens, on_chunk=kill)
    assert killed, f"it ended after {len(answer.pieces)} pieces"
    return answer


async def test_an_answer_survives_the_death_of_its_worker_twice(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=3) as made:
        answer = await _kill_its_worker_after(made, "first death", 200, 3)
        assert_exact(answer, "first death", 200)
        assert answer.longest_pause_s < PAUSE_S_MAX
        assert await made.migrations() == 1
        answer = await _kill_its_worker_after(made, "second death", 200, 10)
        assert_exact(answer, "second death", 200)
        assert len(answer.ids) == 1, "a client sees one answer with one id"


async def test_a_worker_that_dies_before_its_first_token_leaves_no_trace(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        (last,) = made.workers
        dying = await made.start_worker("--fault", "hang")
        await made.routable(2)
        asking = [asyncio.create_task(made.ask(f"early {n}", 30)) for n in range(4)]
        async with asyncio.timeout(DEADLINE_S):
            while not await dying.inflight(made.client):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await dying.kill()
        for n, answer in enumerate(await asyncio.gather(*asking)):
            assert_exact(answer, f"early {n}", 30)
        assert not last.ended


async def test_with_migration_off_a_death_is_an_error_at_once_and_the_next_worker_serves(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model, workers=1, frontend=("--migration-limit", "0")) as made:
        answer = await _kill_its_worker_after(made, "alone", 200, 3)
        assert answer.error is not None
        assert answer.error.code == "disconnected"
        assert not answer.done
        assert answer.finish_reasons == []
        assert answer.ended_at - answer.times[-1] < 1
        # All are dead: that is said at once, with a time to come back at, and it is over when one returns.
        await made.routable(0)
        refused = await made.ask("nobody", 5)
        assert refused.status == 503
        assert "retry-after" in refused.headers
        await made.start_worker()
        await made.routable(1)
        assert_exact(await made.ask("back", 5), "back", 5)


async def test_an_answer_without_another_worker_waits_for_the_next_one_to_start(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        asking = await made.begin(["restarted"], 200)
        await made.workers[0].kill()
        await made.remove(made.workers[0])
        await made.start_worker()
        [answer] = await made.finish(asking)
        assert_exact(answer, "restarted", 200)


async def test_a_wave_of_one_poisoned_request_costs_two_workers_and_no_third(tmp_path: Path, tiny_model: Path) -> None:
    poison, healthy = "poison <|pad|>", "healthy"
    (poison_token,) = set(prompt_token_ids(poison)) - set(prompt_token_ids("poison ")) - set(range(8, 4096))
    async with cluster(tmp_path, tiny_model, workers=4, worker=("--poison-token", str(poison_token))) as made:
        first = await made.ask(poison, 50)
        assert first.error is not None
        assert first.error.code == "poisoned_request"
        await until(lambda: len(_dead(made)) == 2)
        for _ in range(20):
            again, other = await asyncio.gather(made.ask(poison, 50), made.ask(healthy, 3))
            assert again.error is not None
            assert again.error.code == "poisoned_request"
            assert_exact(other, healthy, 3)
        assert len(_dead(made)) == 2


def _dead(made: Cluster) -> list[Worker]:
    return [worker for worker in made.workers if worker.ended]


@pytest.mark.parametrize("seed", range(2))
async def test_a_stop_string_counts_although_it_is_cut_in_two_by_a_death(
    tmp_path: Path, tiny_model: Path, seed: int
) -> None:
    """The string begins in the last token of one worker, and ends in the first one of the next, or near it."""
    text = expected_text("stop", 200)
    place = random.Random(seed).randrange(len(text) // 4, len(text) // 2)
    stop = text[place : place + 12]
    async with cluster(tmp_path, tiny_model, worker=("--token-delay-s", "0.02")) as made:
        # Known from the first piece on: a few tokens before the end there is no time to ask who it is.
        answering: list[Worker] = []

        async def kill(answer: Answer) -> None:
            if not answering:
                answering.append(await made.busiest())
            if len(answer.text) >= place - 6 and not answering[0].ended:
                await answering[0].kill()

        answer = await made.ask("stop", 200, on_chunk=kill, stop=[stop])
        assert answering[0].ended
        assert answer.text == text[: text.index(stop)]
        assert answer.finish_reasons == ["stop"]
        assert answer.done
