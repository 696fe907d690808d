"""What a metric is called on `/metrics`: two metrics that share one of these names make a page that nobody can read."""

from __future__ import annotations

from collections.abc import Mapping

#: By the type of a metric, what a page may say after its name, in either of the two text formats.
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "summary": ("_sum", "_count", "_created"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "info": ("_info",),
}


def names_on_page(name: str, type: str) -> list[str]:
    """Return every name that a metric of this type takes."""
    return [name, *(name + suffix for suffix in _SUFFIXES.get(type, ()))]
