"""A worker without a model: it says the prompt back. For trying a deployment out, and for measuring one.

What is here is imported when it is asked for: the engine needs no SDK, and Ctrl-C may come while the command imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo.echo._engine import EchoEngine
    from dynamo.echo._service import EchoWorker

__all__ = ["EchoEngine", "EchoWorker"]

#: Where each name is.
_LAZY = {"EchoEngine": "._engine", "EchoWorker": "._service"}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    __getattr__ = lazy_names(__name__, _LAZY)
