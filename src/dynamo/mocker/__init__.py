"""A worker without a model that behaves like one with: blocks, prefix caching, batches, preemption, and time.

For trying routers out, and for simulating thousands of workers on one machine. `MockerWorker` is imported when it
is asked for: it brings the SDK, which the engine does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo.mocker._config import MockerConfig
from dynamo.mocker._engine import MockerEngine
from dynamo.mocker._rank import RankStats
from dynamo.mocker._timing import PolynomialTiming, StepWork, TimingModel

if TYPE_CHECKING:
    from dynamo.mocker._service import MockerWorker

__all__ = ["MockerConfig", "MockerEngine", "MockerWorker", "PolynomialTiming", "RankStats", "StepWork", "TimingModel"]

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        if name == "MockerWorker":
            from dynamo.mocker._service import MockerWorker

            return MockerWorker
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
