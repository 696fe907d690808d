"""A door to entry points: what stands on the layers above `dynamo.llm`, under the names that programs know it by.

The stub beside this file tells type checkers what the names are. Nothing is imported before one is asked for.
"""

from dynamo._core.lazy import lazy_names

#: Where each name is.
_LAZY = {
    "EngineConfig": "dynamo.entrypoint",
    "EngineType": "dynamo.entrypoint",
    "EntrypointArgs": "dynamo.entrypoint",
    "HttpService": "dynamo.frontend",
    "make_engine": "dynamo.entrypoint",
    "run_input": "dynamo.entrypoint",
}

__getattr__ = lazy_names(__name__, _LAZY)
