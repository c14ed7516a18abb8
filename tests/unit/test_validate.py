"""Measured points, the fit of the tables to them, and `clover validate`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from clover.analysis.energy_fit import fit_energy
from clover.analysis.replay import original_arrivals_s, replay
from clover.analysis.time_fit import TimeFit, fit_times
from clover.analysis.validate import validate
from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.configuration import InstanceKind
from clover.core.measured import MeasuredPoint
from clover.data_files import data_folder
from clover.errors import ConfigurationError
from clover.measurements import load_left_out, load_measurements

MEASURED = load_measurements("a100-40gb")
MODELS = {name: load_service(name, "a100-40gb") for name in MEASURED.prior}


def _points(application: str) -> list[MeasuredPoint]:
    return [point for point in MEASURED.points if point.application == application]


def test_the_measured_points_are_the_published_ones() -> None:
    assert len(MEASURED.points) == 18
    assert [point.saturated for point in MEASURED.points].count(True) == 2
    first = MEASURED.points[0]
    assert (first.p95_ms, first.energy_j_per_request, first.accuracy_pct) == (165.28, 52.96, 89.1)
    assert first.configuration == "2 x [7g:xxlarge]"
    assert {point.requests for point in MEASURED.points} == {1000, 2000}


def test_arrivals_are_those_of_the_original_generator() -> None:
    point = MEASURED.points[1]
    arrivals = original_arrivals_s(point)
    # First draws of numpy's legacy generator with seed 1: -log(1 - 0.417022), -log(1 - 0.720324).
    assert np.diff(arrivals, prepend=0.0)[:2] == pytest.approx([0.16 * 0.539605, 0.16 * 1.274125], rel=1e-4)
    # Where the fleet kept up, the measured rate is that of these arrivals.
    for each in MEASURED.points:
        if not each.saturated:
            assert each.requests / original_arrivals_s(each)[-1] == pytest.approx(each.served_rate_rps, abs=6e-4)


def test_one_replay_is_what_a_loop_over_two_servers_says() -> None:
    point = _points("yolov5")[0]
    model = MODELS["yolov5"]
    certain = replace(model.table, host_lognormal_sigma=0.0, gpu_lognormal_sigma=0.0)
    seen = replay(ServiceModel(application=model.application, table=certain), point, seeds=2)
    rho = float(seen.rho[0])
    service = (model.host_ms("yolov5x6", rho) + model.gpu_ms("yolov5x6", "7g")) / 1e3
    free, latencies, busy = [0.0, 0.0], [], 0.0
    for arrival in original_arrivals_s(point).tolist():
        free.sort()
        start = max(arrival, free[0])
        free[0] = start + service
        busy += service
        latencies.append(free[0] - arrival)
    assert seen.p95_ms == pytest.approx([1e3 * sorted(latencies)[int(0.95 * len(latencies)) - 1]] * 2, rel=2e-4)
    assert rho == pytest.approx(busy / max(free) / 2, abs=1e-4)
    assert seen.served_rate_rps == pytest.approx([point.requests / max(free)] * 2)


def test_the_simulator_is_near_enough_to_what_was_measured() -> None:
    found = validate(MODELS, MEASURED.points, seeds=200, left_out=load_left_out(MEASURED))
    assert {criterion.name: criterion.met for criterion in found.criteria} == {
        "p95_max_error_pct": True,
        "saturated_served_rate_max_error_pct": True,
        "energy_rms_error_pct": True,
        "accuracy_max_error_points": True,
    }
    assert found.passed
    few, again = (validate(MODELS, _points("albert"), seeds=5) for _ in range(2))
    assert few == again


def test_a_wrong_table_fails_the_validation() -> None:
    model = MODELS["albert"]
    for change in ({"idle_power_w": 45.0}, {"host_lognormal_sigma": 0.9}):
        wrong = ServiceModel(application=model.application, table=replace(model.table, **change))
        assert not validate({"albert": wrong}, _points("albert"), seeds=20).passed


def test_energy_is_recovered_from_points_that_follow_the_formula() -> None:
    replays = [replay(MODELS[point.application], point, seeds=20) for point in MEASURED.points]
    made = fit_energy(MEASURED.points, replays, MEASURED.prior, idle_power_w=30.0)
    exact = [
        replace(point, energy_j_per_request=made.predict_j(point, seen, MEASURED.prior))
        for point, seen in zip(MEASURED.points, replays, strict=True)
    ]
    found = fit_energy(exact, replays, MEASURED.prior)
    assert found.idle_power_w == pytest.approx(30.0, abs=0.1)
    assert found.contention == pytest.approx(made.contention, abs=0.01)
    assert found.exponent == pytest.approx(made.exponent, abs=0.01)
    assert found.largest_j == pytest.approx(made.largest_j, rel=0.01)
    assert found.rms < 1e-3


def test_the_shipped_energies_are_those_of_the_fit_to_the_shipped_times() -> None:
    replays = [replay(MODELS[point.application], point, seeds=100) for point in MEASURED.points]
    found = fit_energy(MEASURED.points, replays, MEASURED.prior)
    assert found.rms < 0.025
    for name, model in MODELS.items():
        assert model.table.idle_power_w == pytest.approx(found.idle_power_w, abs=0.15)
        assert model.table.energy_contention == pytest.approx(found.contention, abs=0.02)
        for variant, performance in model.table.variants.items():
            expected = found.dynamic_j(name, variant, MEASURED.prior[name])
            assert performance.dynamic_energy_j == pytest.approx(expected, rel=0.03)


def test_times_are_recovered_from_points_that_follow_the_model() -> None:
    prior = MEASURED.prior["yolov5"]
    truth = TimeFit(small=1.04, largest=0.96)
    model = truth.apply(MODELS["yolov5"], prior)
    points = [
        replace(
            point,
            p95_ms=float(np.median(seen.p95_ms)),
            served_rate_rps=float(np.median(seen.served_rate_rps)),
        )
        for point in (_points("yolov5")[index] for index in (1, 4))
        for seen in [replay(model, point, seeds=40, seed=1)]
    ]
    found = fit_times(MODELS["yolov5"], points, prior, seeds=40, seed=1)
    assert found.small == pytest.approx(truth.small, abs=0.015)
    assert found.largest == pytest.approx(truth.largest, abs=0.015)


def test_the_report_of_the_fit_has_every_point_left_out_once() -> None:
    left_out = load_left_out(MEASURED)
    assert [each.point for each in left_out] == list(MEASURED.points)
    report = json.loads((data_folder() / "calibration" / "a100-40gb.json").read_text())
    table = MODELS["albert"].table
    assert table.energy_contention == pytest.approx(report["energy"]["energy_contention"], abs=0.005)
    assert table.idle_power_w == pytest.approx(report["energy"]["idle_power_w"], abs=0.05)
    assert "fit_tables.py" in table.provenance


def test_bad_points_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="no measurements of GPU model 'h100-80gb'"):
        load_measurements("h100-80gb")
    with pytest.raises(ValueError, match="p95_ms = 0"):
        replace(MEASURED.points[0], p95_ms=0.0)
    with pytest.raises(ValueError, match="seeds = 0"):
        replay(MODELS["albert"], MEASURED.points[0], seeds=0)
    with pytest.raises(ValueError, match="no measured points"):
        validate(MODELS, [], seeds=3)
    misfit = replace(_points("yolov5")[0], instances=(InstanceKind("1g", "yolov5x6"),))
    with pytest.raises(ValueError, match="does not fit"):
        replay(MODELS["yolov5"], misfit, seeds=3)


# --- command --------------------------------------------------------------------------------------------------------


def test_json_has_the_four_figures_three_times_for_each_point() -> None:
    result = CliRunner().invoke(app, ["validate", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["schema"], found["seeds"], found["in_sample"], found["passed"]) == (1, 200, True, True)
    assert len(found["points"]) == 18
    figures = {"p95_ms", "energy_j_per_request", "accuracy_pct", "served_rate_rps"}
    for point in found["points"]:
        assert {"app", "configuration", "interarrival_s", "quantile"} <= set(point)
        for name in ("measured", "simulated", "error_pct", "leave_one_load_out_error_pct"):
            assert set(point[name]) == figures
        error = 100.0 * (point["simulated"]["p95_ms"] / point["measured"]["p95_ms"] - 1.0)
        assert point["error_pct"]["p95_ms"] == pytest.approx(error, abs=0.01)
        assert 0.0 <= point["quantile"] <= 1.0


def test_the_table_says_that_it_is_in_sample_and_few_seeds_are_a_choice() -> None:
    result = CliRunner().invoke(app, ["validate", "--seeds", "40"], env={"COLUMNS": "100"})
    assert "in-sample" in result.output
    assert "medians of 40" in result.output
    assert CliRunner().invoke(app, ["validate", "--seeds", "0"]).exit_code == 2
