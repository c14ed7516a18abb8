"""`clover runs`, and the folders that real commands write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from clover.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOVER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("CLOVER_RUNS", raising=False)
    monkeypatch.delenv("CLOVER_LONG_TRACES", raising=False)


def _experiment(*arguments: str) -> Any:
    small = ("--apps", "efficientnet", "--gpus", "1", "--seeds", "2", "--simulated", "2000", "--schemes", "base")
    return CliRunner().invoke(app, ["experiment", *small, "--traces", "constant:250,eso-march", "--json", *arguments])


def _json(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_an_experiment_leaves_a_folder_that_tells_everything_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "clover.toml").write_text("[experiment]\npue = 1.2\n")
    monkeypatch.setenv("CLOVER_SLA", "1.5x")
    told = json.loads(_experiment("--run-name", "first").stdout)
    shown = _json("runs", "show", "first")
    run = shown["run"]
    assert shown["summary"] == told
    assert (run["state"], run["command"], run["seed"]) == ("finished", "experiment", 0)
    assert run["hardware"]["label"] == "MODEL"
    origins = {
        name: (run["settings"][name]["value"], run["settings"][name]["origin"]) for name in ("pue", "sla", "gpus")
    }
    assert origins == {"pue": (1.2, "file"), "sla": ("1.5x", "env"), "gpus": (1, "flag")}
    assert run["settings"]["lambda"] == {"value": "0.5", "origin": "default"}
    [trace] = run["inputs"]
    assert trace["what"] == "carbon trace eso-march"
    assert trace["sha256"] == "9e2013acf185047c7e39884008eb3d324f426da794f05c7ebc214ce710a43203"

    assert _experiment("--run-name", "second", "--pue", "1.3").exit_code == 0
    assert [run["run"] for run in _json("runs", "ls", "--command", "experiment")["runs"]] == ["first", "second"]
    assert _json("runs", "ls", "--command", "up")["runs"] == []
    differences = _json("runs", "diff", "first", "last")["differences"]
    pue = next(one for one in differences if one["name"] == "pue")
    assert (pue["group"], pue["a"], pue["b"]) == ("settings", 1.2, 1.3)
    assert pue["change_pct"] == pytest.approx(100 / 12)
    text = CliRunner().invoke(app, ["runs", "diff", "first", "second"]).stdout
    assert "  pue: 1.2 -> 1.3  (+8.3 %)" in text.splitlines()


def test_a_name_that_exists_is_refused_before_anything_is_computed(tmp_path: Path):
    taken = tmp_path / "state" / "runs" / "first"
    taken.mkdir(parents=True)
    refused = _experiment("--run-name", "first").exception
    assert isinstance(refused, ConfigurationError)
    assert "is not overwritten" in str(refused)
    assert list(taken.iterdir()) == []


def test_a_run_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_arguments: object, **_options: object) -> None:
        raise ConfigurationError("the model is wrong")

    monkeypatch.setattr("clover.analysis.experiment.run_all", broken)
    assert _experiment("--runs-dir", str(tmp_path / "kept"), "--run-name", "bad").exit_code == 1
    [run] = _json("runs", "ls", "--runs-dir", str(tmp_path / "kept"))["runs"]
    assert run["state"] == "failed"
    shown = _json("runs", "show", "last", "--runs-dir", str(tmp_path / "kept"))
    assert shown["run"]["reason"] == "the model is wrong"
    assert shown["summary"] is None


def test_no_run_is_said():
    assert "no runs in" in CliRunner().invoke(app, ["runs", "ls"]).output
    assert "there is none of this name" in str(CliRunner().invoke(app, ["runs", "show", "x"]).exception)
