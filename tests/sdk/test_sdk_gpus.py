"""GPUs: which there are, which worker gets which, and what is said when they are too few."""

from __future__ import annotations

import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.runtime import DynamoError
from dynamo.sdk._gpus import GpuRequest, allocate, listed_devices, machine_devices, named_devices


def visible(*requests: tuple[str, int, float], devices: str = "0,1,2,3", **environment: str) -> dict[str, list[str]]:
    wanted = [GpuRequest(*request) for request in requests]
    return dict(allocate(wanted, {"CUDA_VISIBLE_DEVICES": devices, **environment}, no_machine).visible)


def no_machine() -> list[str]:
    raise AssertionError("the machine is asked although the environment names the devices")


def test_each_worker_takes_the_next_devices_and_the_first_service_the_first() -> None:
    assert visible(("Entry", 2, 1), ("Other", 1, 2)) == {"Entry": ["0", "1"], "Other": ["2,3"]}


@pytest.mark.parametrize(
    ("shares", "given"),
    [
        ([0.5, 0.5], ["0", "0"]),
        ([0.5, 0.25, 0.25], ["0", "0", "0"]),
        ([0.6, 0.6, 0.4, 0.4], ["0", "1", "0", "1"]),
        ([0.5, 1, 0.5], ["0", "1", "0"]),
        ([1, 0.5, 1, 0.5], ["0", "1", "2", "1"]),
        ([0.1] * 10 + [1], ["0"] * 10 + ["1"]),
    ],
)
def test_shares_are_packed_onto_the_first_device_with_room(shares: list[float], given: list[str]) -> None:
    result = visible(*[(f"S{number}", 1, share) for number, share in enumerate(shares)])
    assert [result[f"S{number}"] for number in range(len(shares))] == [[device] for device in given]


def test_a_masked_list_is_honoured_in_its_order() -> None:
    assert visible(("A", 2, 1), devices="5,2") == {"A": ["5", "2"]}
    assert visible(("A", 1, 2), devices="GPU-8932f937,MIG-4b1c/1/0") == {"A": ["GPU-8932f937,MIG-4b1c/1/0"]}


def test_a_service_that_wants_none_keeps_what_it_finds() -> None:
    assert visible(("A", 2, 0), ("B", 1, 1)) == {"B": ["0"]}
    assert allocate([GpuRequest("A", 2, 0)], {}, no_machine).visible == {}


def test_allocation_can_be_switched_off() -> None:
    assert visible(("A", 9, 1), DYN_DISABLE_AUTO_GPU_ALLOCATION="0") == {}
    assert visible(("A", 1, 1), DYN_DISABLE_AUTO_GPU_ALLOCATION="") == {"A": ["0"]}


def test_in_a_deployment_every_worker_sees_every_device() -> None:
    assert visible(("A", 2, 1), ("B", 1, 0.5), devices="3,4", DYN_DEPLOYMENT_ENV="1") == {
        "A": ["3,4", "3,4"],
        "B": ["3,4"],
    }
    with pytest.raises(DynamoError, match="A wants 3 GPUs for its worker"):
        visible(("A", 1, 3), devices="3,4", DYN_DEPLOYMENT_ENV="1")


@pytest.mark.parametrize(
    ("request_", "devices", "message"),
    [
        (
            ("LLM", 3, 2),
            "0,1,2,3",
            "LLM wants 2 GPUs for each of its 3 workers, but of the 4 that CUDA_VISIBLE_DEVICES=0,1,2,3 has, 0 are "
            "left for worker 3: run fewer workers, lower resources.gpu, or set DYN_DISABLE_AUTO_GPU_ALLOCATION=1 to "
            "leave the GPUs to the services",
        ),
        (
            ("LLM", 1, 1),
            "",
            "LLM wants 1 GPU for its worker, but CUDA_VISIBLE_DEVICES= has none: lower resources.gpu, or set "
            "DYN_DISABLE_AUTO_GPU_ALLOCATION=1 to leave the GPUs to the services",
        ),
        (
            ("LLM", 2, 1),
            "1,x,2",
            "LLM wants 1 GPU for each of its 2 workers, but of the 1 that CUDA_VISIBLE_DEVICES=1,x,2 has, 0 are left "
            "for worker 2, as 'x' is no device and ends the list: run fewer workers, ",
        ),
        (
            ("LLM", 1, 1),
            "all",
            "LLM wants 1 GPU for its worker, but CUDA_VISIBLE_DEVICES=all has none, as 'all' is no device and ends",
        ),
        (("LLM", 2, 0.6), "7", "LLM wants 0.6 of a GPU for each of its 2 workers, but none of the 1 that "),
    ],
)
def test_too_few_is_one_line_with_the_numbers_and_the_advice(
    request_: tuple[str, int, float], devices: str, message: str
) -> None:
    with pytest.raises(DynamoError) as raised:
        visible(request_, devices=devices)
    assert raised.value.message.startswith(message)
    assert "\n" not in raised.value.message


def test_a_machine_without_gpus_is_named() -> None:
    with pytest.raises(DynamoError, match="A wants 1 GPU for its worker, but this machine has none"):
        allocate([GpuRequest("A", 1, 1)], {}, list)


@pytest.mark.parametrize(
    ("text", "ids", "warns"),
    [
        ("0,1", ("0", "1"), False),
        (" 2 , 05 ", ("2", "5"), False),
        ("", (), False),
        ("-1", (), False),
        ("0,-1", ("0",), False),
        ("0,-1,1", ("0",), True),
        ("0,,1", ("0",), True),
        ("1,none,2", ("1",), True),
        ("NoDevFiles", (), True),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(text: str, ids: tuple[str, ...], warns: bool) -> None:
    devices = named_devices(text)
    assert (devices.ids, bool(devices.warnings)) == (ids, warns)


def test_a_device_named_twice_is_an_error() -> None:
    with pytest.raises(DynamoError, match="CUDA_VISIBLE_DEVICES=0,1,0 names the device 0 twice"):
        named_devices("0,1,0")


requests_of_a_graph = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0])), max_size=5
)


@given(services=requests_of_a_graph, count=st.integers(0, 8))
def test_no_device_is_invented_or_given_away_twice(services: list[tuple[int, float]], count: int) -> None:
    requests = [GpuRequest(f"S{number}", *wanted) for number, wanted in enumerate(services)]
    machine = [str(index) for index in range(count)]
    try:
        given = allocate(requests, {}, lambda: list(machine)).visible
    except DynamoError:
        assert sum(request.workers * Fraction(str(request.gpu)) for request in requests) > 0
        return
    assert given == allocate(requests, {}, lambda: list(machine)).visible
    load: Counter[str] = Counter()
    holders: Counter[str] = Counter()
    for request in requests:
        assert len(given.get(request.name, [])) == (request.workers if request.gpu else 0)
        for devices in given.get(request.name, []):
            ids = devices.split(",")
            assert len(set(ids)) == len(ids) == max(1, int(request.gpu))
            holders.update(ids)
            for device in ids:
                load[device] += Fraction(str(request.gpu)) / len(ids)  # type: ignore[assignment]
    assert set(load) <= set(machine)
    assert all(used <= 1 for used in load.values())
    whole = [
        device for request in requests if request.gpu >= 1 for text in given[request.name] for device in text.split(",")
    ]
    assert all(holders[device] == 1 for device in whole)


# What the machine has.

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-a2b0c1d2-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 3g.40gb     Device  0: (UUID: MIG-1f2c7b4e-6f1c-5a0e-8a4d-4b1a2c3d4e5f)
  MIG 3g.40gb     Device  1: (UUID: MIG-2f2c7b4e-6f1c-5a0e-8a4d-4b1a2c3d4e5f)
"""


def test_the_listing_of_the_driver_is_read_and_a_split_gpu_is_its_parts() -> None:
    assert listed_devices(LISTING) == [
        "0",
        "MIG-1f2c7b4e-6f1c-5a0e-8a4d-4b1a2c3d4e5f",
        "MIG-2f2c7b4e-6f1c-5a0e-8a4d-4b1a2c3d4e5f",
    ]
    assert listed_devices("No devices found.\n") == []


def test_the_machine_is_asked_by_a_command() -> None:
    assert machine_devices([sys.executable, "-c", f"print({LISTING!r})"])[0] == "0"


def test_without_the_command_the_driver_is_counted(tmp_path: Path) -> None:
    assert machine_devices(["no-such-tool"], str(tmp_path / "none")) == []
    for name in ("0000:07:00.0", "0000:0a:00.0"):
        (tmp_path / name).mkdir()
    assert machine_devices(["no-such-tool"], str(tmp_path)) == ["0", "1"]


def test_a_driver_that_fails_is_no_machine_without_gpus() -> None:
    script = "import sys; print('Driver/library version mismatch'); sys.exit(18)"
    with pytest.raises(DynamoError, match=r"failed with status 18: Driver/library version mismatch; name them in CUDA"):
        machine_devices([sys.executable, "-c", script])
