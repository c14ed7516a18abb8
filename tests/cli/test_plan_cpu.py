"""`clover plan` with a table that was measured on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app
from clover.data_files import data_folder


def test_a_table_measured_on_a_cpu_plans_for_emulated_gpus() -> None:
    table = data_folder() / "profiles" / "cpu" / "efficientnet_lite.json"
    known = ["plan", "--app", "efficientnet_lite", "--profile", str(table), "--gpus", "1", "--sla", "1.5x", "--json"]
    found = []
    for intensity in ("30", "600"):
        answer = CliRunner().invoke(app, [*known, "--intensity", intensity])
        assert answer.exit_code == 0, answer.output
        found.append(json.loads(answer.stdout))
    clean, dirty = found
    assert clean["certified"]
    assert dirty["certified"]
    assert dirty["accuracy_pct"] < clean["accuracy_pct"]
    assert dirty["energy_j_per_request"] < clean["energy_j_per_request"]


def test_a_table_of_one_profile_plans_with_that_profile_only(tmp_path: Path) -> None:
    table = json.loads((data_folder() / "profiles" / "cpu" / "efficientnet_lite.json").read_text())
    for variant in table["variants"].values():
        variant["service_ms"] = {"7g": variant["service_ms"]["7g"]}
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(table))
    known = ("plan", "--app", "efficientnet_lite", "--profile", str(path), "--gpus", "2", "--json")
    answer = CliRunner().invoke(app, [*known, "--intensity", "30"])
    assert answer.exit_code == 0, answer.output
    plan = json.loads(answer.stdout)
    assert plan["certified"]
    assert plan["active_gpus"] + plan["parked_gpus"] == 2
