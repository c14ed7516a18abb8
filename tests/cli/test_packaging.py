"""What is shipped: the wheel runs outside the checkout, and the compose file is valid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    wheel = next(tmp_path.glob("*.whl"))
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.startswith("clover_serve")} == {"clover", "mig", "cli"}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=60)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, timeout=240)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CLOVER", "PYTHONPATH"))}
    run = subprocess.run(
        [tmp_path / "venv" / "bin" / "clover", "up", "--duration", "10s", "--no-tui", "--json"],
        cwd=tmp_path,
        env=environment | {"CLOVER_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["requests"]["lost"] == 0


def test_the_compose_file_is_valid() -> None:
    tool = shutil.which("docker-compose") or shutil.which("podman-compose")
    if tool is None:
        pytest.skip("no compose tool is installed")
    checked = subprocess.run(
        [tool, "-f", str(ROOT / "compose.yaml"), "--profile", "sim", "config"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
