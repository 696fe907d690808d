"""What can be a hook."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.sdk.world import World

from dynamo.sdk import async_on_start, liveness, on_shutdown, readiness, service, service_of
from dynamo.sdk._hooks import HookKind

events: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    events.clear()


class Static:
    @staticmethod
    @async_on_start
    def under() -> None:
        events.append("under")

    @async_on_start
    @staticmethod
    def above() -> None:
        events.append("above")


async def test_a_hook_may_be_a_static_method(world: World) -> None:
    @service
    class WithStatic(Static): ...

    await world.run(WithStatic)
    assert events == ["under", "above"]


@service
class Reset:
    @async_on_start
    @on_shutdown
    @staticmethod
    def reset() -> None:
        events.append("reset")

    @liveness
    @readiness
    async def is_well(self) -> bool:
        return True


async def test_a_hook_may_be_of_several_kinds(world: World) -> None:
    runner = await world.run(Reset)
    assert events == ["reset"]
    await runner.stop()
    assert events == ["reset", "reset"]
    assert [service_of(Reset).hooks(kind) for kind in (HookKind.LIVENESS, HookKind.READINESS)] == [["is_well"]] * 2


def test_what_could_not_run_is_no_hook() -> None:
    def generator(self: object) -> Iterator[None]:
        yield

    async def async_generator(self: object) -> AsyncIterator[None]:
        yield

    for hook in (generator, async_generator, staticmethod(generator)):
        with pytest.raises(TypeError, match=r"generator cannot be a hook: it yields, so it would never run"):
            async_on_start(hook)
    with pytest.raises(TypeError, match="a hook must be a method, got 5"):
        liveness(5)  # type: ignore[call-overload]
