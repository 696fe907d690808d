"""Dynamo for Python: serve language models as a graph of plain Python classes.

The doors are `dynamo.sdk`, `dynamo.runtime` and `dynamo.llm`; nothing is imported here, so that each
costs only what it needs.
"""

__all__: list[str] = []
