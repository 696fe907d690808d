"""Tests on a clock of their own: time passes only where they wait, however long the machine stalls."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, ParamSpec, TypeVar

from dynamo._core.virtual_clock import run_virtually

P = ParamSpec("P")
W = TypeVar("W")


def in_virtual_time(
    world: Callable[[], AbstractAsyncContextManager[W]],
) -> Callable[[Callable[Concatenate[W, P], Coroutine[Any, Any, None]]], Callable[P, None]]:
    """Run a test on such a clock. Its first argument is what `world` opens there, where a fixture could not."""

    def decorate(test: Callable[Concatenate[W, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            async def main() -> None:
                async with world() as opened:
                    await test(opened, *args, **kwargs)

            run_virtually(main())

        signature = inspect.signature(test)
        fixtures = list(signature.parameters.values())[1:]
        run.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return run

    return decorate
