"""A door to entry points: what stands on the layers above `dynamo.llm`, under the names that programs know it by.

The stub beside this file tells type checkers what the names are. Nothing is imported before one is asked for.
"""

import importlib

#: Where each name is.
_HOMES = {
    "EngineConfig": "dynamo.entrypoint",
    "EngineType": "dynamo.entrypoint",
    "EntrypointArgs": "dynamo.entrypoint",
    "HttpService": "dynamo.frontend",
    "make_engine": "dynamo.entrypoint",
    "run_input": "dynamo.entrypoint",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
