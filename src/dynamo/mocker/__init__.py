"""A worker without a model that behaves like one with: blocks, prefix caching, batches, preemption, and time.

For trying routers out, and for simulating thousands of workers on one machine.

What is here is imported when it is asked for: the engine needs no SDK, and Ctrl-C may come while the command imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo.mocker._config import MockerConfig
    from dynamo.mocker._engine import MockerEngine
    from dynamo.mocker._rank import RankStats
    from dynamo.mocker._service import MockerWorker
    from dynamo.mocker._timing import PolynomialTiming, StepWork, TimingModel

__all__ = ["MockerConfig", "MockerEngine", "MockerWorker", "PolynomialTiming", "RankStats", "StepWork", "TimingModel"]

#: Where each name is.
_LAZY = {
    "MockerConfig": "._config",
    "MockerEngine": "._engine",
    "MockerWorker": "._service",
    "PolynomialTiming": "._timing",
    "RankStats": "._rank",
    "StepWork": "._timing",
    "TimingModel": "._timing",
}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    __getattr__ = lazy_names(__name__, _LAZY)
