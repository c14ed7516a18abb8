"""The arrival rate as the controller estimates it: noise, steps, ramps, what is known in advance."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest

from clover.core.arrivals import RateProfile
from clover.core.load import (
    GRID_RATIO,
    LoadEstimate,
    LoadEstimator,
    exceeds,
    rate_to_plan,
    undercuts,
)
from clover.core.load_profile import LoadProfile


def arrivals(rate_at: Callable[[float], float], until_s: int, seed: int = 1) -> list[LoadEstimate | None]:
    """Feed an estimator with Poisson arrivals, read once a second."""
    rng, load, admitted, found = Random(seed), LoadEstimator(horizon_s=60.0), 0, []
    for second in range(until_s):
        mean = rate_at(float(second))
        admitted += max(0, round(rng.gauss(mean, math.sqrt(mean))))
        found.append(load.observe(float(second), admitted, expected_rps=20.0))
    return found


def test_the_load_is_looked_at_further_ahead_where_waking_takes_longer() -> None:
    load = LoadEstimator(horizon_s=60.0, profile=LoadProfile(RateProfile((0.0, 150.0, 390.0), (10.0, 30.0, 50.0), 1e4)))
    found: list[float] = []
    for second in range(100):
        load.waking_s = 0.0 if second < 99 else 240.0
        estimate = load.observe(float(second), second * 20, expected_rps=20.0)
        found += [] if estimate is None else [estimate.ahead_rps]
    assert found[-2:] == [30.0, 50.0]


def test_a_steady_load_causes_nothing_whatever_its_noise() -> None:
    for seed in range(5):
        told = [each for each in arrivals(lambda _: 20.0, 3600, seed) if each is not None]
        assert sum(exceeds(each, 20.0 * GRID_RATIO) for each in told) == 0
        assert sum(undercuts(each, 20.0) for each in told) == 0


def test_a_surge_is_seen_within_a_minute() -> None:
    told = arrivals(lambda second: 20.0 if second < 600 else 40.0, 700)
    first = next(second for second in range(600, 700) if (each := told[second]) and exceeds(each, 20.0 * GRID_RATIO))
    assert first <= 660


@pytest.mark.parametrize(("before", "after"), [(6.0, 30.0), (20.0, 60.0), (60.0, 15.0)])
def test_a_step_is_believed_within_three_buckets(before: float, after: float) -> None:
    for seed in range(5):
        told = arrivals(lambda second: before if second < 600 else after, 700, seed)
        for each in told[645:]:
            assert each is not None
            assert each.rate_rps == pytest.approx(after, rel=0.2)


def test_one_burst_is_no_step() -> None:
    told = arrivals(lambda second: 60.0 if 600 <= second < 610 else 20.0, 700)
    assert max(each.rate_rps for each in told if each) < 20.0 + 0.3 * (60.0 - 20.0)


def test_a_ramp_is_planned_for_ahead() -> None:
    told = arrivals(lambda second: 20.0 + 0.1 * max(0.0, second - 600.0), 1200)
    last = told[-1]
    assert last is not None
    assert last.ahead_rps > 20.0 + 0.1 * 600.0


@pytest.mark.parametrize("rest", [1.0, 3.0])
def test_what_is_left_after_a_steep_fall_is_seen(rest: float) -> None:
    told = arrivals(lambda second: 2.0 if second < 60 else 120.0 if second < 180 else rest, 1500)
    for each in told[900:]:
        assert each is not None
        assert 0.7 * rest < each.rate_rps < 1.4 * rest


def test_a_load_that_ends_is_seen() -> None:
    told = arrivals(lambda second: 20.0 if second < 600 else 0.0, 1200)
    last = told[-1]
    assert last is not None
    assert undercuts(last, 20.0)


def test_a_known_load_is_told_before_anything_is_measured_and_ahead_of_its_time() -> None:
    rates = RateProfile((0.0, 100.0, 200.0), (10.0, 50.0, 20.0), 300.0, repeats=False)
    load = LoadEstimator(horizon_s=30.0, profile=LoadProfile(rates, 1000.0))
    moments = (900.0, 980.0, 1060.0, 1080.0, 1250.0, 1290.0, 1400.0)
    told = [load.observe(now_s, 0, expected_rps=10.0) for now_s in moments]
    assert [(each.rate_rps, each.ahead_rps) for each in told if each] == [
        (0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 50.0), (20.0, 20.0), (20.0, 20.0), (0.0, 0.0),
    ]  # fmt: skip
    assert [exceeds(each, 12.0) for each in told if each] == [False, False, False, True, True, True, False]


def test_what_is_measured_counts_beside_what_is_known() -> None:
    """More than is known in advance is planned for as ever; less is not planned for than is known."""
    for rate, above, below in ((40.0, True, False), (5.0, False, False), (20.0, False, False)):
        load = LoadEstimator(profile=LoadProfile(RateProfile((0.0,), (20.0,), 60.0)))
        admitted, last = 0.0, None
        for second in range(600):
            admitted += rate
            last = load.observe(float(second), round(admitted), expected_rps=20.0)
        assert last is not None
        assert last.rate_rps == pytest.approx(rate, rel=0.01)
        planned = 20.0 * GRID_RATIO
        assert (exceeds(last, planned), undercuts(last, planned)) == (above, below)


@pytest.mark.parametrize("rate", [0.5, 6.25, 12.5, 62.5])
def test_what_is_planned_for_is_on_a_grid_a_little_above_the_load(rate: float) -> None:
    planned = rate_to_plan(LoadEstimate.sure(rate))
    assert rate < planned <= rate * 1.05 * GRID_RATIO * 1.0001
    # Neither raised nor lowered again by itself.
    assert not exceeds(LoadEstimate.sure(rate), planned)
    assert not undercuts(LoadEstimate.sure(rate), planned)
