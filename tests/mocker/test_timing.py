"""How long a step takes, and what the ratios make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.mocker import PolynomialTiming, StepWork
from dynamo.mocker._timing import step_s

TIMING = PolynomialTiming(
    base_s=1.0, prefill_token_s=0.5, prefill_pair_s=0.25, decode_request_s=0.1, decode_kv_token_s=0.01
)
COUNTS = st.integers(0, 10_000)


def test_both_parts_add_up_and_the_base_is_paid_once() -> None:
    prefill, decode = StepWork(4, 8), StepWork(num_decodes=2, num_decode_kv_tokens=100)
    both = StepWork(4, 8, 2, 100)
    assert step_s(TIMING, prefill, 1, 1) == pytest.approx(1 + 2 + 2)
    assert step_s(TIMING, decode, 1, 1) == pytest.approx(1 + 0.2 + 1)
    assert step_s(TIMING, both, 1, 1) == pytest.approx(1 + 4 + 0.2 + 1)


def test_the_ratios_make_it_faster() -> None:
    both = StepWork(4, 8, 2, 100)
    assert step_s(TIMING, both, 2, 1) == pytest.approx((4 + 2.2) / 2)
    assert step_s(TIMING, both, 2, 10) == pytest.approx((4 + 0.22) / 2)
    assert step_s(TIMING, both, 2, 0) == pytest.approx(4 / 2)
    assert step_s(TIMING, both, 0, 1) == 0


@given(tokens=COUNTS, pairs=COUNTS, decodes=st.integers(0, 100), kv=COUNTS)
def test_more_work_never_takes_less_time(tokens: int, pairs: int, decodes: int, kv: int) -> None:
    timing = PolynomialTiming()
    less = step_s(timing, StepWork(tokens, pairs, decodes, kv), 1, 1)
    assert 0 < less <= step_s(timing, StepWork(tokens + 1, pairs + 1, decodes + 1, kv + 1), 1, 1)


def test_the_defaults_are_those_of_a_small_model_on_a_large_gpu() -> None:
    timing = PolynomialTiming()
    ttft_s = step_s(timing, StepWork(8192, 8192**2 // 2), 1, 1)
    itl_s = step_s(timing, StepWork(num_decodes=32, num_decode_kv_tokens=32 * 2048), 1, 1)
    assert 0.2 < ttft_s < 0.6
    assert 0.005 < itl_s < 0.02
