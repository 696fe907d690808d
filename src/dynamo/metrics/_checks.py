"""What a metric may be called and given: everything that a scraper or a sum would trip over is refused here."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import NoReturn

from dynamo._core.errors import InvalidArgument
from dynamo._core.shown import shown
from dynamo.metrics._scope import ATTACHED_LABELS, can_be_encoded

NAME_CHARS_MAX = 200
LABELS_MAX = 16
BUCKETS_MAX = 64

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
#: Labels that Prometheus, or the exposition of several processes, uses itself.
_RESERVED = (*ATTACHED_LABELS, "le", "quantile", "pid")


def check_metric_name(name: str) -> None:
    """Raise `InvalidArgument` unless a metric can have this name."""
    if not isinstance(name, str) or len(name) > NAME_CHARS_MAX or not _METRIC.fullmatch(name):
        _refuse(
            "name",
            name,
            f"a metric is called by letters, digits, _ and :, with no digit first (at most {NAME_CHARS_MAX})",
        )


def check_documentation(documentation: str) -> None:
    """Raise `InvalidArgument` unless this is text that says something."""
    if not isinstance(documentation, str) or not documentation.strip() or not can_be_encoded(documentation):
        _refuse("documentation", documentation, "say in a sentence what the metric counts, in UTF-8")


def checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the label names of a metric; raise `InvalidArgument` for what cannot be such."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        _refuse("labels", labels, 'give a sequence of names, such as ("kind",)')
    if len(labels) > LABELS_MAX:
        _refuse("labels", list(labels), f"a metric has at most {LABELS_MAX} labels")
    for label in labels:
        if not isinstance(label, str) or len(label) > NAME_CHARS_MAX or not _LABEL.fullmatch(label):
            _refuse("labels", label, "a label is called by letters, digits and _, with no digit first")
        if label in _RESERVED or label.startswith("__"):
            _refuse("labels", label, f"{', '.join(_RESERVED)} and what begins with __ are not for others to set")
    if len(set(labels)) < len(labels):
        _refuse("labels", list(labels), "each label is named once")
    return tuple(labels)


def checked_buckets(buckets: Sequence[float]) -> tuple[float, ...]:
    """Return the upper bounds of a histogram without +Inf, which it has anyway; raise `InvalidArgument` if wrong."""
    if isinstance(buckets, str | bytes) or not isinstance(buckets, Sequence):
        _refuse("buckets", buckets, "give a sequence of upper bounds, such as (0.1, 1, 10)")
    bounds = [bound for bound in buckets if bound != math.inf]
    if not 1 <= len(bounds) <= BUCKETS_MAX:
        _refuse("buckets", list(buckets)[: BUCKETS_MAX + 1], f"give 1 to {BUCKETS_MAX} upper bounds")
    for bound in bounds:
        if not is_number(bound):
            _refuse("buckets", bound, "an upper bound is a finite number")
    floats = tuple(map(float, bounds))
    if any(low >= high for low, high in itertools.pairwise(floats)):
        _refuse("buckets", bounds, "the upper bounds must go up")
    return floats


def is_number(value: object) -> bool:
    """Whether this is a finite number; those of numpy are, too."""
    try:
        return isinstance(value, (int, float, Real)) and math.isfinite(value)
    except OverflowError:  # an int that no float can be
        return False


def check_asked(parameter: str, function: object) -> None:
    """Raise `InvalidArgument` unless this is something to call at a scrape, without arguments and without waiting."""
    call = getattr(function, "__call__", None)  # noqa: B004
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        _refuse(parameter, function, "give a function without arguments that is not async")
    try:
        inspect.signature(function).bind()
    except ValueError:
        return  # one that does not tell what it takes
    except TypeError as error:
        _refuse(parameter, function, f"give a function without arguments that is not async ({error})")


def refuse_amount(metric: str, parameter: str, value: object, allowed: str) -> NoReturn:
    """Raise `InvalidArgument` for a number that a metric does not take."""
    raise InvalidArgument(
        f"{metric}: {parameter}={shown(value)} is not allowed: give {allowed}", metric=metric, parameter=parameter
    )


def _refuse(parameter: str, value: object, allowed: str) -> NoReturn:
    raise InvalidArgument(f"{parameter}={shown(value)} is not allowed: {allowed}", parameter=parameter)
