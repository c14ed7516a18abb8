"""The page of the control's figures: what it says of runs that are there, missing, or outside their limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clover.sim.control_figures import page, run_rolling, runs

ROOT = Path(__file__).parents[2]
LATE_LIMIT_PCT = 6.0


def _result(**changed: Any) -> dict[str, Any]:
    return {
        "hours": 48,
        "requests": {"sent": 1000, "lost": 0},
        "late_pct": 3.0,
        "by_hour": [{"late_pct_lower": 4.0}, {"late_pct_lower": 1.0}],
        "footprint_g": 80.0,
        "accuracy_pct": 86.0,
        "wakes": 3,
        "replans": 9,
        "mig_changes": 12,
    } | changed


def _write(folder: Path, **results: dict[str, Any]) -> None:
    for name, result in results.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(result))


def test_a_page_compares_each_run_with_its_twin_and_says_what_is_missing(tmp_path: Path):
    _write(tmp_path, phase_9_parked_48h=_result(), phase_9_twin_48h=_result(footprint_g=100.0, accuracy_pct=86.1))
    text = page(tmp_path, runs(48.0))
    assert "computed for this page: 2 of 10" in text
    assert "| phase-9-parked-48h | 48 | 1000 | 3.00 | 4.00 | 0 | 80 | 86.00 | 3 | 9 | 12 |" in text
    assert "| phase-9-parked-48h | 20.0 | 0.100 | yes |" in text
    assert "| reserve-1-48h | not computed for this page |" in text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"requests": {"sent": 1000, "lost": 1}}, "no: lost"),
        ({"late_pct": 5.01}, "no: late"),
        ({"by_hour": [{"late_pct_lower": 5.01}]}, "no: late"),
        ({"footprint_g": 88.1}, "no: saving"),
        ({"accuracy_pct": 85.9}, "no: accuracy"),
        ({"accuracy_pct": 85.9, "footprint_g": 99.0}, "no: saving, accuracy"),
    ],
)
def test_a_page_names_each_limit_that_a_run_breaks(tmp_path: Path, changed: dict[str, Any], told: str):
    twin = _result(footprint_g=100.0, accuracy_pct=86.1)
    _write(tmp_path, reserve_1_48h=_result(**changed), phase_9_twin_48h=twin)
    (row,) = (line for line in page(tmp_path, runs(48.0)).splitlines() if line.endswith(f"| {told} |"))
    assert row.startswith("| reserve-1-48h |")


def test_lines_of_a_change_that_broke_its_limits_are_not_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(sys.argv[-1])\nsys.exit(10 if sys.argv[-1] == 'seven' else 0)\n")
    assert not run_rolling(tmp_path, script)
    assert (tmp_path / "rolling-capacity.jsonl").read_text() == "capacity\n"
    assert not (tmp_path / "rolling-seven.jsonl").exists()
    assert "script.py --load seven ended with 10, not kept:\nseven\n" in capfd.readouterr().err


def test_the_page_in_the_documentation_is_that_of_the_runs_beside_it():
    work = ROOT / "docs" / "results" / "control"
    assert (ROOT / "docs" / "results-control.md").read_text() == page(work, runs(48.0))


def test_rolled_changes_in_the_documentation_keep_the_limits():
    rows = [
        json.loads(line)
        for load in ("capacity", "seven")
        for line in (ROOT / "docs" / "results" / "control" / f"rolling-{load}.jsonl").read_text().splitlines()
    ]
    rolled = [row for row in rows if row["way"] == "rolling"]
    assert len(rolled) == 4
    assert all(row["requests"]["lost"] == 0 and row["late_pct"] <= LATE_LIMIT_PCT for row in rolled)
