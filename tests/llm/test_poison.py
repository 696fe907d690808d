"""Which requests are refused because they took workers down, and for how long."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.sim.loop import SimLoop, run

from dynamo._core.errors import Disconnected, DynamoError, InvalidArgument
from dynamo.llm import PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._nvext import NvExt
from dynamo.llm._poison import (
    AHEAD_S,
    ANSWERED_MAX,
    BLOCKED_MAX,
    BLOCKED_S,
    OF_WHO_ASKS_IN_NVEXT,
    PoisonedRequest,
    PoisonList,
    Suspect,
    fingerprint,
)
from dynamo.llm._wishes import RouterConfigOverride, Wishes
from dynamo.runtime._http_status import status_of

LOST = Disconnected("lost")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def request(*token_ids: int, seed: int | None = None, max_tokens: int = 5) -> PreprocessedRequest:
    return PreprocessedRequest(
        "m", list(token_ids), StopConditions(max_tokens=max_tokens), SamplingOptions(seed=seed, temperature=0.5)
    )


def salted(salt: str) -> PreprocessedRequest:
    return msgspec.structs.replace(request(1), cache_salt=salt)


def test_the_second_worker_ends_the_request_and_names_both() -> None:
    suspect = Suspect(PoisonList(Clock()), request(1))
    suspect.note_death("7", LOST)
    with pytest.raises(PoisonedRequest, match=r"\(instances 7, 8\): it is given to no other") as caught:
        suspect.note_death("8", LOST)
    assert caught.value.__cause__ is LOST
    assert status_of(caught.value) == 500


def test_a_worker_that_several_choices_lose_died_once() -> None:
    suspect = Suspect(PoisonList(Clock()), request(1))
    for _ in range(3):
        suspect.note_death("7", LOST)


def test_a_request_is_refused_until_its_time_is_over() -> None:
    clock = Clock()
    poisoned = PoisonList(clock)
    poisoned.block(fingerprint(request(1)))
    clock.now_s += BLOCKED_S - 0.5
    with pytest.raises(PoisonedRequest, match="is refused for 1 s more"):
        Suspect(poisoned, request(1)).check()
    clock.now_s += 0.5
    Suspect(poisoned, request(1)).check()
    assert len(poisoned) == 0


def test_what_asks_for_the_same_is_the_same() -> None:
    assert fingerprint(request(1, 2)) == fingerprint(request(1, 2, seed=9))
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"prompt": "x", "seed": 1, "user": "me"}) == fingerprint({"prompt": "x"})
    assert fingerprint({"prompt": "x", "stop": "y"}) != fingerprint({"prompt": "x"})
    others = [request(1), request(2, 1), request(1, 2, max_tokens=6)]
    assert fingerprint(request(1, 2)) not in map(fingerprint, others)


@pytest.mark.parametrize(
    "said",
    [
        {"cache_salt": "s"},
        {"dp_rank": 1},
        {"routing": Wishes(session_id="s")},
        {"router_config_override": RouterConfigOverride(router_temperature=1.0)},
    ],
)
def test_who_asks_and_where_it_is_to_go_makes_no_other_request(said: dict[str, object]) -> None:
    assert fingerprint(msgspec.structs.replace(request(1), **said)) == fingerprint(request(1))


@pytest.mark.parametrize(
    "said",
    [
        {"cache_salt": "s"},
        {"safety_identifier": "me"},
        {"nvext": {}},
        {"nvext": {"cache_salt": "s", "dp_rank": 1, "explain": True}},
    ],
)
def test_the_same_goes_for_a_body_as_it_was_sent(said: dict[str, object]) -> None:
    assert fingerprint({"prompt": "x"} | said) == fingerprint({"prompt": "x"})


def test_of_nvext_only_what_says_how_to_answer_counts() -> None:
    assert NvExt.model_fields.keys() - NvExt.UNSERVED.keys() == OF_WHO_ASKS_IN_NVEXT
    raw = {"nvext": {"use_raw_prompt": True}}
    assert fingerprint(raw) != fingerprint({}) == fingerprint({"nvext": None})


def test_what_killed_for_one_tenant_is_refused_to_all() -> None:
    poisoned = PoisonList(Clock())
    suspect = Suspect(poisoned, salted("one"))
    suspect.note_death("7", LOST)
    with pytest.raises(PoisonedRequest):
        suspect.note_death("8", LOST)
    for other in (salted("other"), request(1)):
        with pytest.raises(PoisonedRequest, match="is refused for 60 s more"):
            Suspect(poisoned, other).check()


@pytest.mark.parametrize("value", [2**70, "\ud800"])
def test_what_cannot_be_sent_is_a_wrong_request(value: object) -> None:
    with pytest.raises(InvalidArgument, match="the request cannot be sent: "):
        fingerprint({"prompt": value})


def test_only_so_many_are_remembered_and_the_newest_of_them() -> None:
    poisoned = PoisonList(Clock())
    for number in range(BLOCKED_MAX + 10):
        poisoned.block(b"%d" % number)
    assert len(poisoned) == BLOCKED_MAX
    assert poisoned.blocked_for_s(b"9") == 0
    assert poisoned.blocked_for_s(b"10") == BLOCKED_S


def test_a_refusal_travels_with_its_code() -> None:
    assert issubclass(PoisonedRequest, DynamoError)
    assert PoisonedRequest.code == "poisoned_request"


# Who goes ahead


DEADLINE_S = 60.0


async def waiting(suspect: Suspect) -> asyncio.Task[None]:
    """A request that waits for its turn."""
    task = asyncio.create_task(suspect.wait_for_turn())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_of_those_who_ask_for_the_same_one_goes_ahead_until_it_is_answered() -> None:
    poisoned = PoisonList(Clock())
    first, second, other = (Suspect(poisoned, request(number)) for number in (1, 1, 2))
    assert first.may_go()
    assert first.may_go()  # with its other choices
    assert other.may_go()
    assert not second.may_go()
    turn = await waiting(second)
    first.note_answer()
    async with asyncio.timeout(DEADLINE_S):
        await turn
    assert Suspect(poisoned, request(1, seed=3)).may_go()
    assert len(poisoned.ahead) == 1  # the other one


@pytest.mark.parametrize("is_text", [False, True])
async def test_nobody_learns_from_waiting_what_another_tenant_asks(is_text: bool) -> None:
    def asked(salt: str) -> Suspect:
        return Suspect(poisoned, {"prompt": "x", "cache_salt": salt} if is_text else salted(salt))

    poisoned = PoisonList(Clock())
    first = asked("one")
    assert first.may_go()
    assert not asked("one").may_go()
    other = asked("other")
    assert other.may_go()  # while it is asked
    first.note_answer()
    assert asked("one").may_go()
    assert not asked("other").may_go()  # and once it is answered


async def test_the_choices_of_a_request_wait_for_each_other_and_their_losses_count_together() -> None:
    whole = Suspect(PoisonList(Clock()), request(1))
    one, other = whole.of_choice(), whole.of_choice()
    assert one.may_go()
    assert not other.may_go()
    one.note_death("7", LOST)
    with pytest.raises(PoisonedRequest, match=r"\(instances 7, 8\)"):
        other.note_death("8", LOST)


async def test_all_who_wait_are_refused_with_the_one_that_goes_ahead() -> None:
    poisoned = PoisonList(Clock())
    first = Suspect(poisoned, request(1))
    assert first.may_go()
    turns = [await waiting(Suspect(poisoned, request(1))) for _ in range(3)]
    first.note_death("7", LOST)
    assert first.may_go()  # to its second worker
    with pytest.raises(PoisonedRequest):
        first.note_death("8", LOST)
    first.leave()
    async with asyncio.timeout(DEADLINE_S):
        ends = await asyncio.gather(*turns, return_exceptions=True)
    assert {type(end) for end in ends} == {PoisonedRequest}
    assert poisoned.ahead == {}


async def test_when_the_one_that_goes_ahead_leaves_the_next_one_does() -> None:
    poisoned = PoisonList(Clock())
    first, second, third = (Suspect(poisoned, request(1)) for _ in range(3))
    assert first.may_go()
    turns = [await waiting(second), await waiting(third)]
    first.leave()
    first.leave()
    async with asyncio.timeout(DEADLINE_S):
        done, _ = await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        second.leave()
        third.leave()
        await asyncio.gather(*turns)
    third.leave()
    assert poisoned.ahead == {}


async def test_after_a_death_with_what_was_answered_one_goes_ahead_again() -> None:
    poisoned = PoisonList(Clock())
    one, other = (Suspect(poisoned, request(1)) for _ in range(2))
    assert one.may_go()
    one.note_answer()
    assert other.may_go()
    one.note_death("7", LOST)
    assert other.may_go()
    assert not one.may_go()
    other.note_answer()
    assert one.may_go()


def test_nobody_waits_for_more_than_a_few_seconds() -> None:
    async def main(loop: SimLoop) -> None:
        poisoned = PoisonList(loop.time)
        assert Suspect(poisoned, request(1)).may_go()
        late, before_s = Suspect(poisoned, request(1)), loop.time()
        await late.wait_for_turn()
        assert loop.time() - before_s == pytest.approx(AHEAD_S)
        late.note_answer()  # so nobody need wait any more
        assert Suspect(poisoned, request(1)).may_go()

    run(main, 0)


async def test_of_answers_only_so_many_are_remembered_and_the_newest_of_them() -> None:
    poisoned = PoisonList(Clock())
    for number in range(ANSWERED_MAX + 10):
        poisoned.note_answer(b"%d" % number)
    assert not poisoned.is_answered(b"9")
    assert poisoned.is_answered(b"10")
