"""A caller that chooses the instance of each request, and says what that one is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container

import pytest
from tests.runtime.test_client_retries import DEADLINE_S, Answer, World, full, gone
from tests.virtual_time import in_virtual_time

from dynamo.runtime import CannotConnect, Client, InvalidArgument, NoInstances, Overloaded


async def echo(request: object) -> AsyncIterator[object]:
    yield request


class Choice:
    """Takes the instances in an order, and remembers between which it was asked to choose."""

    def __init__(self, *order: int, last: Exception | None = None) -> None:
        self._order = list(order)
        self._last = last
        self.asked: list[list[int]] = []

    def __call__(self, ids: list[int]) -> int:
        self.asked.append(ids)
        if not self._order and self._last is not None:
            raise self._last
        return self._order.pop(0)


async def ask(client: Client, choice: Choice, avoid: Container[int] = ()) -> list[object]:
    async with asyncio.timeout(DEADLINE_S):
        stream = await client.chosen(lambda id: f"for {id}", choice, item_type=object, avoid=avoid)
        return [item async for item in stream]


@in_virtual_time(World)
async def test_the_instance_that_is_chosen_gets_the_request_that_is_made_for_it(world: World) -> None:
    ids = [await world.add(echo) for _ in range(3)]
    client = await world.client(3)
    for id in ids:
        choice = Choice(id)
        assert await ask(client, choice) == [f"for {id}"]
        assert choice.asked == [sorted(ids)]
    assert world.caller.measure_calls(client.endpoint).requests == 3


@pytest.mark.parametrize("refuse", [full, gone])
@in_virtual_time(World)
async def test_after_a_refusal_it_is_asked_again_for_one_of_the_others(world: World, refuse: Answer) -> None:
    refusing = await world.add(refuse)
    good = await world.add(echo)
    client = await world.client(2)
    choice = Choice(refusing, good)
    assert await ask(client, choice) == [f"for {good}"]
    assert choice.asked == [sorted([refusing, good]), [good]]


@in_virtual_time(World)
async def test_so_it_is_after_an_instance_that_cannot_be_reached(world: World) -> None:
    await world.add_ghost(77)
    good = await world.add(echo)
    client = await world.client(2)
    assert await ask(client, Choice(77, good)) == [f"for {good}"]


@in_virtual_time(World)
async def test_instances_to_avoid_are_not_there_to_choose_from(world: World) -> None:
    ids = [await world.add(echo) for _ in range(3)]
    client = await world.client(3)
    choice = Choice(ids[2])
    await ask(client, choice, avoid=[ids[0]])
    assert choice.asked == [sorted(ids[1:])]
    with pytest.raises(NoInstances):
        await ask(client, Choice(), avoid=ids)


@pytest.mark.parametrize("error", [NoInstances("none fits"), Overloaded("all are busy"), ValueError("a bug")])
@in_virtual_time(World)
async def test_what_the_choice_raises_is_raised_and_nobody_is_asked(world: World, error: Exception) -> None:
    await world.add(echo)
    client = await world.client(1)
    choice = Choice(last=error)
    with pytest.raises(type(error), match=str(error)):
        await ask(client, choice)
    assert (len(choice.asked), world.begun.total()) == (1, 0)


@pytest.mark.parametrize("error", [NoInstances("none fits"), Overloaded("all are busy")])
@in_virtual_time(World)
async def test_if_none_of_the_others_is_right_the_refusal_is_the_answer(world: World, error: Exception) -> None:
    refusing = await world.add(full)
    await world.add(echo)
    client = await world.client(2)
    with pytest.raises(Overloaded, match="no place here"):
        await ask(client, Choice(refusing, last=error))
    await world.add_ghost(77)
    client = await world.client(3)
    with pytest.raises(CannotConnect):
        await ask(client, Choice(77, last=error))


@in_virtual_time(World)
async def test_a_choice_of_somebody_else_is_refused(world: World) -> None:
    await world.add(echo)
    client = await world.client(1)
    with pytest.raises(InvalidArgument, match="12345 was chosen, and is none of the 1 instances"):
        await ask(client, Choice(12345))


@in_virtual_time(World)
async def test_whoever_chooses_may_change_the_list_that_it_gets(world: World) -> None:
    ids = [await world.add(echo) for _ in range(2)]
    client = await world.client(2)

    def choose(candidates: list[int]) -> int:
        chosen = min(candidates)
        candidates.clear()
        return chosen

    await client.chosen(lambda _: "x", choose, item_type=object)
    assert client.instance_ids() == sorted(ids)
