"""Entry points: from who asks (HTTP clients, a terminal, a file, frontends) to who answers, in your own program.

`dynamo run` is these with a command line. They are imported when they are asked for; `dynamo.llm` has them, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo.entrypoint._args import EngineType, EntrypointArgs
    from dynamo.entrypoint._inputs import run_input
    from dynamo.entrypoint._make import EngineConfig, make_engine

__all__ = ["EngineConfig", "EngineType", "EntrypointArgs", "make_engine", "run_input"]

#: Where each name is.
_LAZY = {
    "EngineConfig": "._make",
    "EngineType": "._args",
    "EntrypointArgs": "._args",
    "make_engine": "._make",
    "run_input": "._inputs",
}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    __getattr__ = lazy_names(__name__, _LAZY)
