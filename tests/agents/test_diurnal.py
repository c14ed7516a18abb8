"""A day's load with parking: 15 minutes across the ramp, and, slow, three hours with the twin that parks nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from clover.sim.diurnal import DiurnalSettings, compared, load_of, lower_bound, rate_rps, run_diurnal, trace_of

RAMP = DiurnalSettings(from_h=8.5, hours=0.25)
SCRIPT = Path(__file__).parent.parent / "process_ramp.py"


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
    # Somebody slept, and was woken for the load to come.
    assert result["wakes"] > 0
    assert result["replans"] > 0


def ramp(hash_seed: str) -> subprocess.Popen[str]:
    """Begin the shortest part of the ramp in which a GPU wakes for a new plan, in a process of its own."""
    command = [sys.executable, str(SCRIPT), "7.5", "0.08"]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_ramp_repeats_to_the_byte_whatever_the_order_of_hashes() -> None:
    """Decisions, changes, every request: nothing depends on the order of a set or on the process."""
    processes = [ramp("1"), ramp("2")]
    told = [process.communicate(timeout=240.0) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [err for _, err in told]
    first, second = (out for out, _ in told)
    *events, result, digest = map(json.loads, first.splitlines())
    kinds = Counter(event["kind"] for event in events)
    assert kinds["decision"] >= 2
    assert kinds["gpu.parked"] > 0
    assert (result["scheme"], result["parking"], result["requests"]["lost"]) == ("exact", "parked", 0)
    assert min(result["wakes"], result["replans"]) > 0
    assert len(digest) == 64
    assert first == second


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
    assert parked["wakes"] > 0
    assert parked["replans"] > 0
    assert twin["wakes"] == 0
