from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clover.serving.duty import DutyCycle


class _Clock:
    """A clock that only moves when somebody works or sleeps, and a sleep that is late by `lag_s`."""

    def __init__(self, lag_s: float = 0.0) -> None:
        self.now = 0.0
        self.lag_s = lag_s
        self.sleeps = 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + self.lag_s

    def work(self, duty: DutyCycle, cpu_s: float, elapsed_s: float) -> None:
        self.now += elapsed_s
        duty.throttle(cpu_s=cpu_s, elapsed_s=elapsed_s)


@given(
    slices=st.integers(1, 6),
    sections=st.lists(st.floats(0.01, 0.1), min_size=200, max_size=200),
    lag_s=st.floats(0.0, 0.01),
)
def test_the_share_is_kept_however_late_the_timer_is(slices: int, sections: list[float], lag_s: float) -> None:
    clock = _Clock(lag_s)
    duty = DutyCycle(slices / 7, sleep=clock.sleep, clock=clock)
    for cpu_s in sections:
        clock.work(duty, cpu_s, cpu_s)
    assert sum(sections) / clock.now == pytest.approx(slices / 7, rel=0.02)


def test_a_whole_gpu_is_never_held_back() -> None:
    clock = _Clock()
    duty = DutyCycle(1.0, sleep=clock.sleep, clock=clock)
    for _ in range(50):
        clock.work(duty, 0.02, 0.021)
    assert clock.sleeps == 0


def test_time_lost_to_others_is_not_saved_up_for_a_burst() -> None:
    clock = _Clock()
    duty = DutyCycle(0.5, sleep=clock.sleep, clock=clock)
    clock.work(duty, 0.02, 100.0)
    begun = clock.now
    for _ in range(100):
        clock.work(duty, 0.02, 0.02)
    assert clock.now - begun >= 4.0 - 0.05 - 1e-9


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01])
def test_a_share_must_be_within_one_core(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        DutyCycle(fraction)
