"""What the results page is computed from: hulls, mixtures, intervals, year-long series, and the count of cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clover.analysis import ladder, paper, parking, results, row_files, work
from clover.analysis.cases import Case, gpu_ids, own_rate_rps, problem_of
from clover.analysis.long_traces import load_long_traces
from clover.catalog import load_service
from clover.errors import ConfigurationError, TraceError


def _hourly(intensity: np.ndarray[Any, Any], energy_j: np.ndarray[Any, Any]) -> ladder.Hourly:
    hours = len(intensity)
    return ladder.Hourly(
        intensity=intensity, requests=np.full(hours, 10.0), energy_j=energy_j,
        accuracy=np.where(energy_j > 150, 90.0, 80.0),
        late=np.zeros(hours), base_j=40.0, small_j=30.0, base_accuracy=90.0,
        hull=(np.array([80.0, 90.0]), np.array([10.0, 20.0])), uniform=None, mig_changes=0, replans=0, pue=1.5, hosts=2,
    )  # fmt: skip


def test_following_gains_grams_but_no_energy_when_the_same_plans_are_timed():
    intensity = np.tile([100.0, 300.0], 168)
    followed = _hourly(intensity, np.where(intensity > 200, 100.0, 200.0))
    found = ladder.figures(followed)
    assert found["accuracy_pct"] == pytest.approx(85.0)
    assert found["kwh"]["static"] == pytest.approx(found["kwh"]["exact"])
    assert found["following_kwh_pct"] == pytest.approx(0.0, abs=1e-9)
    # Blind: 15 J at a mean of 200; following: 20 J at 100 and 10 J at 300.
    assert found["following_g_pct"] == pytest.approx(100.0 * (1.0 - 2500.0 / 3000.0))
    assert found["saved_pct"]["base_rightsized"] == pytest.approx(25.0)


def test_host_power_lowers_every_saving():
    hourly = _hourly(np.tile([100.0, 300.0], 168), np.full(336, 100.0))
    without, with_host = ladder.figures(hourly)["saved_pct"], ladder.figures(hourly, host_w=150.0)["saved_pct"]
    assert with_host["exact"] < without["exact"]
    assert with_host["base_rightsized"] < without["base_rightsized"]


def test_intervals_hold_the_figure_and_short_series_have_none():
    rng = np.random.default_rng(0)
    intensity = rng.uniform(50.0, 400.0, 52 * 168)
    hourly = _hourly(intensity, np.where(intensity > 200, 100.0, 200.0))
    low, high = ladder.bootstrap(hourly)["following"]
    assert low < ladder.figures(hourly)["following_g_pct"] < high
    assert ladder.bootstrap(_hourly(intensity[:200], np.full(200, 100.0))) == {}


@pytest.mark.parametrize(
    ("savings", "watts"), [({0.0: 10.0, 20.0: 5.0, 40.0: -5.0}, 30.0), ({0.0: 2.0, 40.0: 1.0}, None)]
)
def test_watts_at_which_a_saving_is_gone(savings: dict[float, float], watts: float | None):
    assert ladder.zero_watts(savings) == watts


def test_gpus_are_spread_over_nodes_as_evenly_as_possible():
    assert [str(gpu) for gpu in gpu_ids(3, 2)] == ["n1/gpu0", "n1/gpu1", "n2/gpu0"]
    with pytest.raises(ValueError, match="nodes = 3: expected 1 to 2"):
        problem_of(load_service("albert", "a100-40gb"), Case(gpus=2, nodes=3, rate_rps=1.0))


def test_year_long_series_are_put_on_whole_hours_and_gaps_are_counted(tmp_path: Path):
    (tmp_path / "gb-2021-neso-actual-forecast.csv").write_text(
        "datetime,carbon_intensity_production_avg,Forecast Carbon Intensity (gCO2/kWh),Index\n"
        "2021-01-01T00:00Z,100.0,90,low\n"
        "2021-01-01T01:00Z,,95,low\n"
        "2021-01-01T02:00Z,200.0,210,high\n"
        "2021-01-01T03:30Z,230.0,220,high\n"
        "2021-01-01T04:00Z,240.0,230,high\n"
    )
    (series,) = load_long_traces(tmp_path)
    assert series.trace.values_g_per_kwh == pytest.approx((100.0, 150.0, 200.0, 230.0, 240.0))
    assert series.forecast is not None
    assert series.forecast.values_g_per_kwh[:3] == (90.0, 95.0, 210.0)
    assert series.filled_hours == 1


def test_year_long_series_with_bad_values_are_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="holds none of"):
        load_long_traces(tmp_path)
    file = tmp_path / "pjm-2022-eia930.csv"
    file.write_text("timestamp,avg_CI\n2022-01-01 00:00:00+00:00,300\n2022-01-01 01:00:00+00:00,-1\n")
    with pytest.raises(TraceError, match="line 3"):
        load_long_traces(tmp_path)
    file.write_text("timestamp,avg_CI\n2022-01-01 00:00:00+00:00,300\n")
    with pytest.raises(TraceError, match="expected at least two"):
        load_long_traces(tmp_path)
    file.write_text("timestamp,something\n2022-01-01 00:00:00+00:00,300\n2022-01-01 01:00:00+00:00,300\n")
    with pytest.raises(TraceError, match="avg_CI"):
        load_long_traces(tmp_path)


def test_the_verdict_counts_ties_gains_and_what_is_worse():
    def case(exact: float, oracle: float) -> dict[str, Any]:
        return {"certified": True, "objective": {"exact": exact, "oracle": oracle, "clover": 0.0, "blover": 0.0}}

    found = paper.verdict([case(0.1, 0.1), case(0.1, 0.09), case(0.1, 0.10005)])
    assert found["passed"]
    assert (found["against"]["oracle"]["ties"], found["against"]["oracle"]["gains"]) == (2, 1)
    assert not paper.verdict([case(0.1, 0.102)])["passed"]
    assert not paper.verdict([case(0.1, 0.1) | {"certified": False}])["passed"]


def _square(number: int) -> dict[str, Any]:
    return {"square": number * number}


def test_parts_are_computed_once_and_read_afterwards(tmp_path: Path):
    parts: dict[str, work.Part] = {f"part-{n}": (_square, (n,)) for n in (2, 3)}
    told: list[str] = []
    first = work.run_parts(tmp_path, parts, processes=2, tell=told.append)
    assert first == {"part-2": {"square": 4}, "part-3": {"square": 9}}
    again = work.run_parts(tmp_path, parts, processes=2, tell=told.append)
    assert again == first
    assert sorted(told) == ["part-2", "part-3"]


def test_a_page_can_be_written_of_whatever_has_been_computed(tmp_path: Path):
    parts = {"rightsized-albert": {"app": "albert", "active_gpus": 4, "closed_late_pct": 4.88, "late_pct": 4.99,
             "late_upper_pct": 5.07, "certified": False}}  # fmt: skip
    (tmp_path / "work").mkdir()
    for name, part in parts.items():
        (tmp_path / "work" / f"{name}.json").write_text(json.dumps(part))
    (tmp_path / "docs").mkdir()
    assert results.main(["--page-only", "--work", str(tmp_path / "work"), "--docs", str(tmp_path / "docs")]) == 0
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "paper 0 of 9" in page
    assert "albert with 4 GPUs (4.88 % late by the closed form, 4.99 % in the simulation of its nodes" in page


def test_rows_of_the_ladder_come_back_from_their_file(tmp_path: Path):
    rng = np.random.default_rng(0)
    hourly = _hourly(rng.uniform(50.0, 400.0, 3 * 168), np.full(3 * 168, 100.0))
    row = {"app": "albert", "trace": "gb-2021", "lambda": 0.1, "parked_w": 25.0} | ladder.figures(hourly)
    rows = [row | {"interval_95_pct": ladder.bootstrap(hourly)}]
    rows.append(rows[0] | {"uniform_static": {"accuracy_pct": 84.5, "saved_pct": 40.25}})
    row_files.write_rows(tmp_path / "results" / "year.csv", [row_files.flat_ladder_row(row) for row in rows])
    again = row_files.read_ladder_rows(tmp_path / "results" / "year.csv")
    for before, after in zip(rows, again, strict=True):
        assert after.keys() == before.keys()
        assert after["saved_pct"] == pytest.approx(before["saved_pct"], abs=1e-6)
        assert after["interval_95_pct"]["following"] == pytest.approx(before["interval_95_pct"]["following"], abs=1e-6)
        assert (after["uniform_static"], after["hours"], after["app"]) == (before["uniform_static"], 504, "albert")
    # A page without a year of its own shows it, and says whose it is.
    results.main(["--page-only", "--work", str(tmp_path / "work"), "--docs", str(tmp_path)])
    page = (tmp_path / "results.md").read_text()
    assert "These rows are those of an earlier page" in page
    assert "year 0 of 6" in page
    assert "40.2 (84.50)" in page


def test_the_fewest_gpus_of_a_light_load_is_one():
    model = load_service("efficientnet", "a100-40gb")
    assert parking.fewest(problem_of(model, Case(gpus=2, rate_rps=own_rate_rps(model, 2, 0.2)))) == 1


def test_a_page_of_some_parts_says_what_is_missing(tmp_path: Path):
    gap = {"app": "albert", "lambda": 0.1, "gpus": 10, "objective": 0.5, "upper_bound": 0.501, "gap": 0.001,
           "late_upper_pct": 4.5, "certified": True}  # fmt: skip
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "gap-albert-10-0.1.json").write_text(json.dumps(gap))
    assert results.main(["--page-only", "--work", str(tmp_path / "work"), "--docs", str(tmp_path)]) == 0
    page = (tmp_path / "results.md").read_text()
    assert "| albert, lambda 0.1, 10 GPUs | 0.50000 | 0.50100 |" in page
    assert "* The largest gap to the bound at 5x without parking is 1.0e-03" in page
    assert "**Not everything was computed for this page:** ladder 0 of 6" in page
    assert "gap 1 of 18" in page
    assert "parking 0 of 18" in page
