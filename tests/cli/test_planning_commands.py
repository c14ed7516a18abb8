"""`clover plan`, `frontier` and `experiment`: what they print, and how they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from clover.errors import ConfigurationError

PLAN_FIELDS = {
    "objective", "upper_bound", "gap", "certified", "late_upper_pct", "p95_ms", "accuracy_pct",
    "energy_j_per_request", "solve_s", "active_gpus", "parked_gpus", "gpus", "dispatch", "candidates_tried", "reason",
}  # fmt: skip
ROW_FIELDS = {
    "scheme", "app", "trace", "rate_rps", "gpus", "lambda", "parking", "footprint_g", "energy_j_per_request",
    "saved_pct", "saved_pct_rightsized", "saved_pct_original_way", "baseline_feasible", "accuracy_pct",
    "accuracy_loss_pct", "p95_ms", "sla_p95_ms", "late_pct", "feasible", "objective", "replans", "mig_changes",
    "evaluations", "explored_violations", "seconds",
}  # fmt: skip
#: The smallest questions that the tables allow.
SMALL = ("--app", "efficientnet", "--gpus", "1")
TRIAL = (
    "experiment", "--apps", "efficientnet", "--gpus", "1", "--seeds", "2", "--simulated", "2000", "--json", "--traces",
    "constant:250",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOVER_STATE_DIR", str(tmp_path / "state"))
    # Where it is set an experiment replays years as well.
    monkeypatch.delenv("CLOVER_LONG_TRACES", raising=False)


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), terminal_width=200)


def _json(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = _invoke(*arguments)
    assert result.exit_code == code, result.exception
    return json.loads(result.stdout)


def _refusal(*arguments: str) -> str:
    error = _invoke(*arguments).exception
    assert isinstance(error, ConfigurationError)
    return str(error)


def test_plan_is_one_clean_json_object_whatever_the_solver_prints(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "cli", "plan", *SMALL, "--json"],
        capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert set(plan) == PLAN_FIELDS | {"schema"}
    assert plan["certified"]
    assert plan["late_upper_pct"] <= 5.0
    assert plan["upper_bound"] >= plan["objective"] - 1e-9
    assert plan["gap"] == pytest.approx(max(0.0, plan["upper_bound"] - plan["objective"]), abs=1e-12)


def test_plan_says_what_every_gpu_is_and_certifies_plans_of_schemes_that_prove_nothing():
    plan = _json("plan", "--app", "efficientnet", "--gpus", "3", "--scheme", "base_rightsized", "--json")
    assert [gpu["mode"] for gpu in plan["gpus"]].count("serving") == plan["active_gpus"]
    assert plan["active_gpus"] + plan["parked_gpus"] == len(plan["gpus"]) == 3
    assert plan["upper_bound"] is None
    assert plan["certified"] == (plan["late_upper_pct"] <= 5.0)
    assert {rule["rule"] for rule in plan["dispatch"].values()} == {"longest_idle"}


def test_an_impossible_sla_exits_10_and_says_what_would_be_feasible():
    plan = _json("plan", *SMALL, "--sla", "20", "--json", code=10)
    assert not plan["certified"]
    assert "no plan" in plan["reason"]
    assert "feasible: p95 within" in plan["reason"]


@pytest.mark.parametrize(
    ("arguments", "named", "expected"),
    [
        (("plan", "--rate", "0"), "--rate = 0.0", "above 0"),
        (("plan", "--rate", "nan"), "--rate = nan", "above 0"),
        (("plan", "--lambda", "1.5"), "--lambda = 1.5", "from 0 to 1"),
        (("plan", "--sla", "-1"), "--sla = -1.0", "above 0"),
        (("plan", "--intensity", "-5"), "--intensity = -5.0", "from 0 to 2000"),
        (("plan", "--accuracy-floor", "99"), "--accuracy-floor = 99", "at most 89.1"),
        (("plan", "--accuracy-floor", "80", "--carbon-budget", "1"), "--accuracy-floor", "at most one"),
        (("plan", "--accuracy-floor", "80", "--scheme", "clover"), "--scheme = clover", "expected exact"),
        (("plan", "--gpus", "2", "--reserve", "2"), "--reserve = 2", "0 to 1"),
        (("plan", "--gpus", "2", "--nodes", "3"), "--nodes = 3", "at most --gpus"),
        (("plan", "--parking", "deep"), "--parking = deep", "none, parked or off"),
        (("plan", "--park-w", "-1"), "--park-w = -1.0", "0 or more"),
        (("plan", "--scheme", "static"), "'static'", "expected one of"),
        (("plan", "--app", "bert"), "'bert'", "expected one of"),
        (("frontier", "--rate", "inf"), "--rate = inf", "above 0"),
        (("experiment", "--schemes", "base,best"), "--schemes: 'best'", "expected one of"),
        (("experiment", "--apps", "bert"), "--apps: 'bert'", "expected one of"),
        (("experiment", "--lambda", "0.1,x"), "--lambda: 'x'", "not a number"),
        (("experiment", "--loads", "0"), "--loads = 0.0", "above 0"),
        (("experiment", "--traces", "nowhere"), "'nowhere'", "expected one of"),
        (("experiment", "--schemes", "base,"), "--schemes = 'base,'", "separated by commas"),
        (("experiment", "--year"), "--year", "CLOVER_LONG_TRACES"),
        (("experiment", "--year", "--long-traces", "/nonexistent"), "--long-traces = /nonexistent", "not a folder"),
    ],
)
def test_bad_input_is_one_line_that_names_field_value_and_what_was_expected(
    arguments: tuple[str, ...], named: str, expected: str
):
    said = _refusal(*arguments)
    assert named in said
    assert expected in said
    assert "\n" not in said


def test_frontier_lists_certified_plans_by_energy_and_writes_a_picture(tmp_path: Path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "frontier.png"
    found = _json("frontier", *SMALL, "--png", str(picture), "--json")
    energies = [point["energy_j_per_request"] for point in found["points"]]
    accuracies = [point["accuracy_pct"] for point in found["points"]]
    assert energies == sorted(energies)
    assert accuracies == sorted(set(accuracies))
    assert all(point["late_pct"] <= 5.0 for point in found["points"])
    assert {point["feasible"] for point in found["others"]} == {True, False}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_is_refused_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = _invoke("frontier", *SMALL, "--png", "x.png").exception
    assert isinstance(error, ConfigurationError)
    assert "clover-serve[analysis]" in error.hint


def test_experiment_rows_have_the_documented_fields_and_repeat_in_any_number_of_processes():
    arguments = (*TRIAL, "--schemes", "base,base_rightsized,clover,static", "--loads", "1,2")
    first, second = (_json(*arguments, "--processes", n) for n in ("1", "2"))
    for found in (first, second):
        assert all(set(row) == ROW_FIELDS for row in found["rows"])
        for row in found["rows"]:
            row.pop("seconds")
    assert first == second
    assert [row["scheme"] for row in first["rows"]] == ["base", "base_rightsized", "clover", "static"] * 2
    base = first["rows"][0]
    assert base["saved_pct"] == pytest.approx(0.0, abs=1e-9)
    assert first["spreads"][0]["seeds"] == 2
    low, middle, high = first["spreads"][0]["ranges"]["objective"]
    assert low <= middle <= high


def test_exact_keeps_the_promise_and_does_not_lose_to_the_best_static_choice():
    rows = _json(*TRIAL, "--schemes", "static,exact", "--parking", "none", "--processes", "1")["rows"]
    static, exact = rows
    assert exact["feasible"]
    assert exact["objective"] >= static["objective"] - 1e-4


def test_a_scheme_that_is_too_late_is_marked_and_not_ranked():
    overloaded = ("experiment", "--apps", "yolov5", "--gpus", "1", "--loads", "6", "--traces", "constant:250")
    arguments = (*overloaded, "--schemes", "base,co2opt", "--simulated", "2000", "--processes", "1")
    rows = {row["scheme"]: row for row in _json(*arguments, "--json")["rows"]}
    assert not rows["base"]["feasible"]
    assert rows["base"]["late_pct"] > 5.0
    assert not rows["base"]["baseline_feasible"]
    result = _invoke(*arguments)
    assert "base (infeasible)" in result.stdout
    assert "no fair comparison" in result.stderr
