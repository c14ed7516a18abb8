"""`clover up --backend nvml` over the fake driver: real processes, real models, on the CPU where there is no CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvml_fake import FakeNvml

from clover.serving.availability import missing_packages
from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")


def _clover(fake: FakeNvml, folder: Path, *arguments: str, limit_s: float = 100.0) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in fake.environment.items() if not key.startswith("CLOVER_")}
    own = {"CLOVER_STATE_DIR": str(folder / "state"), "CLOVER_MIG_STATE": str(folder / "records")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env=kept | own, capture_output=True, text=True, timeout=limit_s, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _json(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.skipif(bool(missing_packages()), reason="needs the `models` extra")
def test_a_whole_deployment_on_mig_gpus(nvml_libraries: Callable[[int], Path], tmp_path: Path) -> None:
    fake = FakeNvml(nvml_libraries(0), tmp_path / "nvml-state")
    fake.add_gpu(A100, mode=False)
    fake.add_gpu(A100)
    fake.set_energy(0, 1_000)
    fake.set_energy(1, 1_000)
    run = ("--backend", "nvml", "--app", "efficientnet_lite", "--scheme", "base", "--duration", "5s", "--rate", "2")
    result = _json(_clover(fake, tmp_path, "up", *run, "--no-tui", "--json"))
    assert result["requests"]["sent"] > 0
    assert result["requests"]["lost"] == result["requests"]["failed"] == 0
    assert result["energy_source"] == "estimate:tdp+nvml"
    assert result["energy_j_per_request"] > 0
    first, second = _json(_clover(fake, tmp_path, "mig", "status", "--json"))["gpus"]
    assert first["mig"] == {"current": False, "pending": False}
    assert [(each["size"], each["owner"]) for each in second["instances"]] == [("7g", "ours")]


def test_up_refuses_gpus_that_are_not_there(nvml_libraries: Callable[[int], Path], tmp_path: Path) -> None:
    fake = FakeNvml(nvml_libraries(0), tmp_path / "nvml-state")
    fake.add_gpu(A100, mode=False)
    before = sorted(tmp_path.iterdir())
    arguments = ("up", "--backend", "nvml", "--app", "efficientnet_lite", "--no-tui")
    refused = _clover(fake, tmp_path, *arguments)
    assert (refused.returncode, "MIG mode is off" in refused.stderr) == (6, True)
    fake.add_gpu(A100)
    refused = _clover(fake, tmp_path, *arguments, "--gpus", "2")
    assert (refused.returncode, "expected at most the 1 that can be used" in refused.stderr) == (3, True)
    refused = _clover(fake, tmp_path, "up", "--backend", "nvml", "--app", "yolov5", "--no-tui")
    assert (refused.returncode, "has figures but no weights" in refused.stderr) == (3, True)
    assert sorted(tmp_path.iterdir()) == before
