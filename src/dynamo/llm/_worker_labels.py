"""What the operator of a worker says of it, for routers: its taints, and how strong its device is.

They stand in the `runtime_config` of its model card. Taints are labels that requests may require or prefer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dynamo._core.errors import ConfigError
from dynamo.llm._numbers import is_number, shown

TAINT_CHARS_MAX = 256
TAINTS_MAX = 64
DEVICE_WEIGHT_MIN = 0.001
DEVICE_WEIGHT_MAX = 1000.0

_TAINT = re.compile(rf"[!-+\--~]{{1,{TAINT_CHARS_MAX}}}")


def worker_labels(taints: str | Sequence[str] | None, device_weight: float | None) -> dict[str, object]:
    """Return the labels as fields of a `runtime_config`, without those that are not given.

    `taints` in one text are separated by commas. Raises `ConfigError` for what makes no sense.
    """
    labels: dict[str, object] = {}
    if taints:
        given = _checked_taints(taints.split(",") if isinstance(taints, str) else taints)
        labels["taints"] = list(dict.fromkeys(given))
    if device_weight is not None:
        labels["device_weight"] = _checked_weight(device_weight)
    return labels


def check_labels(runtime_config: Mapping[str, object]) -> None:
    """Raise `ConfigError` if a `runtime_config` has labels that no router could make sense of."""
    if "taints" in runtime_config:
        _checked_taints(runtime_config["taints"])
    if "device_weight" in runtime_config:
        _checked_weight(runtime_config["device_weight"])


def _checked_taints(taints: object) -> list[str]:
    if not isinstance(taints, list | tuple):
        raise ConfigError(f"taints is {shown(taints)}: it must be a list of labels", setting="taints")
    checked = [taint for taint in taints if isinstance(taint, str) and _TAINT.fullmatch(taint)]
    if len(checked) < len(taints):
        wrong = next(taint for taint in taints if taint not in checked)
        raise ConfigError(
            f"taints has {shown(wrong)}: each is 1 to {TAINT_CHARS_MAX} visible ASCII characters without a comma, "
            "such as h100",
            setting="taints",
        )
    if len(checked) > TAINTS_MAX:
        raise ConfigError(f"taints are {len(checked)}: a worker has {TAINTS_MAX} at most", setting="taints")
    return checked


def _checked_weight(weight: object) -> float:
    if not is_number(weight) or not DEVICE_WEIGHT_MIN <= weight <= DEVICE_WEIGHT_MAX:
        raise ConfigError(
            f"device_weight is {shown(weight)}: it must be a number from {DEVICE_WEIGHT_MIN:g} to "
            f"{DEVICE_WEIGHT_MAX:g}",
            setting="device_weight",
        )
    return float(weight)
