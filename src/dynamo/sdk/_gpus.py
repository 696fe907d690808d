"""Which GPUs each worker sees: decided once, before anything is started.

The devices are those that `CUDA_VISIBLE_DEVICES` names around `dynamo serve`, else those of the machine. The
workers take them in order, the entry's first: whole devices exclusively, shares below 1 packed onto the first
device with enough room. No device is invented and none is given away twice: too few are an error.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from dynamo._core.errors import ConfigError

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
#: Any text in it leaves the GPUs to the services.
DISABLE = "DYN_DISABLE_AUTO_GPU_ALLOCATION"
#: Set where the container of a service holds just its own GPUs: every worker sees them all.
DEPLOYMENT = "DYN_DEPLOYMENT_ENV"

#: A driver that takes longer does not work.
LISTING_TIMEOUT_S = 20.0
_DRIVER_GPUS = "/proc/driver/nvidia/gpus"

_INDEX = re.compile(r"[0-9]+")
_IDENTIFIER = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")
_LISTED_GPU = re.compile(r"GPU (\d+):")
_LISTED_MIG = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What the workers of one service want: so many GPUs each, or a share of one."""

    name: str
    workers: int
    gpu: float


@dataclass(frozen=True, slots=True)
class Devices:
    """The GPUs there are, each by its index or its identifier, and where that is known from."""

    ids: tuple[str, ...]
    origin: str = "this machine"
    #: The entry at which a list ends early, because it is no device.
    cut: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.cut is None:
            return ()
        return (f"{self.origin}: {self.cut!r} is no device, so CUDA ignores it and all that follows",)


@dataclass(frozen=True, slots=True)
class Allocation:
    """By the name of a service, what `CUDA_VISIBLE_DEVICES` is for each of its workers; others keep what they find."""

    visible: Mapping[str, list[str]]
    warnings: tuple[str, ...] = ()


def allocate(
    requests: Sequence[GpuRequest], environment: Mapping[str, str], machine: Callable[[], list[str]] | None = None
) -> Allocation:
    """Give every worker its GPUs. Raises `ConfigError` if there are too few.

    `machine` finds the devices of the machine, which is not asked unless it matters.
    """
    requests = [request for request in requests if request.gpu > 0]
    if not requests or environment.get(DISABLE):
        return Allocation({})
    if VISIBLE_DEVICES in environment:
        devices = named_devices(environment[VISIBLE_DEVICES])
    else:
        devices = Devices(tuple((machine or machine_devices)()))
    share_all = bool(environment.get(DEPLOYMENT))
    return Allocation((_everything if share_all else _exclusive)(requests, devices), devices.warnings)


def _exclusive(requests: Sequence[GpuRequest], devices: Devices) -> dict[str, list[str]]:
    room = dict.fromkeys(devices.ids, Fraction(1))
    return {
        request.name: [",".join(_take(request, number, room, devices)) for number in range(1, request.workers + 1)]
        for request in requests
    }


def _everything(requests: Sequence[GpuRequest], devices: Devices) -> dict[str, list[str]]:
    for request in requests:
        if request.gpu > len(devices.ids):
            raise _too_few(request, 1, len(devices.ids), devices)
    return {request.name: [",".join(devices.ids)] * request.workers for request in requests}


def _take(request: GpuRequest, number: int, room: dict[str, Fraction], devices: Devices) -> list[str]:
    """Take the devices of one worker out of what is left."""
    whole = request.gpu >= 1
    share = Fraction(1) if whole else Fraction(str(request.gpu))  # as it is written: ten tenths are one
    wanted = int(request.gpu) if whole else 1
    free = [device for device, left in room.items() if left >= share]
    if len(free) < wanted:
        raise _too_few(request, number, len(free), devices)
    for device in free[:wanted]:
        room[device] -= share
    return free[:wanted]


def _too_few(request: GpuRequest, number: int, left: int, devices: Devices) -> ConfigError:
    each = "its worker" if request.workers == 1 else f"each of its {request.workers} workers"
    if not devices.ids:
        what = f"{devices.origin} has none"
    elif request.gpu < 1:
        what = f"none of the {len(devices.ids)} that {devices.origin} has can hold worker {number}"
    else:
        what = f"of the {len(devices.ids)} that {devices.origin} has, {left} are left for worker {number}"
    if devices.cut is not None:
        what += f", as {devices.cut!r} is no device and ends the list"
    advice = f"lower resources.gpu, or set {DISABLE}=1 to leave the GPUs to the services"
    if request.workers > 1:
        advice = f"run fewer workers, {advice}"
    gpus = "1 GPU" if request.gpu == 1 else f"{request.gpu:g} GPUs" if request.gpu > 1 else f"{request.gpu:g} of a GPU"
    return ConfigError(f"{request.name} wants {gpus} for {each}, but {what}: {advice}")


def named_devices(text: str) -> Devices:
    """Read `CUDA_VISIBLE_DEVICES` as CUDA does: nothing counts from the first entry that names no device.

    Raises `ConfigError` for a device that is named twice, for which CUDA shows none at all.
    """
    origin = f"{VISIBLE_DEVICES}={text}"
    entries = [entry.strip() for entry in text.split(",")]
    ids: list[str] = []
    for entry in entries:
        if not (_INDEX.fullmatch(entry) or _IDENTIFIER.fullmatch(entry)):
            break
        device = str(int(entry)) if _INDEX.fullmatch(entry) else entry
        if device in ids:
            raise ConfigError(f"{origin} names the device {device} twice: CUDA would show none")
        ids.append(device)
    ignored = entries[len(ids) :]
    if not ignored or ignored == ["-1"] or entries == [""]:
        return Devices(tuple(ids), origin)
    return Devices(tuple(ids), origin, ignored[0])


def machine_devices(command: Sequence[str] = ("nvidia-smi", "-L"), driver_gpus: str = _DRIVER_GPUS) -> list[str]:
    """Ask the driver which devices the machine has; none if there is no driver.

    Raises `ConfigError` if there is one that does not answer.
    """
    try:
        # Its output is small, and there is no terminal that it could wait for.
        listing = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LISTING_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return [str(index) for index in range(len(os.listdir(driver_gpus)))] if os.path.isdir(driver_gpus) else []
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = (
            f"does not answer in {LISTING_TIMEOUT_S:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else error
        )
        raise ConfigError(_unknown(command, str(reason))) from error
    if listing.returncode != 0 and "No devices" not in listing.stdout:
        said = " ".join((listing.stdout + listing.stderr).split())
        raise ConfigError(_unknown(command, f"failed with status {listing.returncode}: {said}"))
    return listed_devices(listing.stdout)


def listed_devices(listing: str) -> list[str]:
    """Read what `nvidia-smi -L` prints. A GPU that is split is its parts."""
    devices: list[str] = []
    gpu: str | None = None
    for line in listing.splitlines():
        if match := _LISTED_GPU.match(line):
            gpu = match[1]
            devices.append(gpu)
        elif match := _LISTED_MIG.match(line):
            if devices[-1:] == [gpu]:
                devices.pop()
            devices.append(match[1])
    return devices


def _unknown(command: Sequence[str], reason: str) -> str:
    return f"cannot find the GPUs of this machine: {' '.join(command)} {reason}; name them in {VISIBLE_DEVICES}"
