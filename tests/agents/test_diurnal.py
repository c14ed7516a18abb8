"""A day's load with parking: 15 minutes across the ramp, and, slow, three hours with the twin that parks nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest

from clover.sim.diurnal import DiurnalSettings, compared, load_of, lower_bound, rate_rps, run_diurnal, trace_of

RAMP = DiurnalSettings(from_h=8.5, hours=0.25)


def test_the_load_is_the_stated_one() -> None:
    assert rate_rps(9.0, 9.0) == pytest.approx(62.5 * 0.55)
    assert rate_rps(15.0, 9.0) == pytest.approx(62.5)
    assert rate_rps(3.0, 9.0) == pytest.approx(6.25)
    whole = load_of(DiurnalSettings())
    assert whole.end_s == 48 * 3600.0
    assert whole.mean_rps == pytest.approx(62.5 * 0.55, rel=1e-3)
    assert len(trace_of(RAMP).values_g_per_kwh) >= 2


def test_a_lower_bound_lies_below_the_mean_by_the_spread_of_the_batches() -> None:
    assert lower_bound([0.05] * 20) == pytest.approx(0.05)
    assert lower_bound([0.0, 0.1] * 10) == pytest.approx(0.05 - 2.539 * math.sqrt(0.05**2 * 20 / 19 / 20), abs=1e-4)
    assert lower_bound([0.3]) == 0.0


def test_a_quarter_of_an_hour_across_the_ramp() -> None:
    result = run_diurnal(RAMP)
    assert result["requests"]["lost"] == result["requests"]["duplicate"] == result["requests"]["failed"] == 0
    assert result["late_pct"] <= 5.0
    assert max(hour["late_pct_lower"] for hour in result["by_hour"]) <= 5.0
    assert result["requests"]["sent"] > 0.9 * load_of(RAMP).mean_rps * 900.0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_three_hours_across_the_ramp_with_their_unparked_twin() -> None:
    settings = dataclasses.replace(RAMP, from_h=7.5, hours=3.0)
    parked = run_diurnal(settings)
    twin = run_diurnal(dataclasses.replace(settings, parking="none"))
    told = compared(parked, twin)
    assert told["lost_none"], parked["requests"]
    assert told["late_kept"], parked["by_hour"]
    assert told["saved_pct"] > 5.0, told
    assert told["accuracy_lost_points"] <= 0.15, told
