"""The live clock: right as long as the wall clock is, and never jumping with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clover.agents.system_clock import SLEW, SystemClock


class Times:
    def __init__(self) -> None:
        self.wall_s, self.steady_s = 1_000_000.0, 50.0

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds

    def clock(self) -> SystemClock:
        return SystemClock(wall_s=lambda: self.wall_s, steady_s=lambda: self.steady_s)


def test_it_is_the_wall_clock_while_nobody_sets_that() -> None:
    times = Times()
    clock = times.clock()
    for seconds in (0.0, 0.001, 10.0, 86_400.0):
        times.pass_s(seconds)
        assert clock.now_s() == pytest.approx(times.wall_s, abs=1e-6)
        assert clock.now_ms() == pytest.approx(times.wall_s * 1e3, abs=1e-3)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_step_is_followed_slowly_and_to_its_end(step_s: float) -> None:
    times = Times()
    clock = times.clock()
    times.wall_s += step_s
    before_s = clock.now_s()
    assert before_s == pytest.approx(1_000_000.0)
    times.pass_s(10.0)
    assert clock.now_s() - before_s == pytest.approx(10.0 + SLEW * (10.0 if step_s > 0 else -10.0))
    times.pass_s(3600.0 / SLEW)
    assert clock.now_s() == pytest.approx(times.wall_s)


def test_a_step_that_is_taken_back_leaves_no_trace() -> None:
    times = Times()
    clock = times.clock()
    times.wall_s += 3600.0
    times.pass_s(5.0)
    clock.now_s()
    times.wall_s -= 3600.0
    times.pass_s(5.0)
    assert clock.now_s() == pytest.approx(times.wall_s)


@given(st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(0.0, 1e4)), max_size=30))
def test_it_never_goes_back_nor_much_faster_than_time(steps: list[tuple[float, float]]) -> None:
    times = Times()
    clock = times.clock()
    last_s = clock.now_s()
    for step_s, passed_s in steps:
        times.wall_s += step_s
        times.pass_s(passed_s)
        now_s = clock.now_s()
        assert (1.0 - SLEW) * passed_s - 1e-6 <= now_s - last_s <= (1.0 + SLEW) * passed_s + 1e-6
        last_s = now_s
