"""GPUs that are not needed are switched off, and one more than needed serves, from the plan to the answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from processes import all_answered, clover, generating, result_of, up, within

ASKED = ("--gpus", "4", "--nodes", "2", "--rate", "6", "--parking", "off")


def planned(folder: Path, *more: str) -> dict[str, Any]:
    told = clover(folder, "plan", *ASKED, "--intensity", "250", *more, "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def phases(folder: Path) -> Counter[str]:
    told = clover(folder, "status", "--json")
    nodes = json.loads(told.stdout)["nodes"] if told.returncode == 0 else []
    return Counter(gpu["phase"] for node in nodes for gpu in node["gpus"])


def test_parking_off_and_a_reserve_from_plan_to_serve(tmp_path: Path) -> None:
    needed, plan = planned(tmp_path), planned(tmp_path, "--reserve", "1")
    assert plan["active_gpus"] == needed["active_gpus"] + 1 < 4
    with up(tmp_path, *ASKED, "--trace", "constant:250", "--reserve", "1", duration="20s") as process:
        within(60, lambda: generating(tmp_path))
        seen = phases(tmp_path)
        result = result_of(process)
    assert seen == {"serving": plan["active_gpus"], "off": 4 - plan["active_gpus"]}
    all_answered(result, least=50)
    assert result["mig_changes"] == result["reconfigurations"] == 0
    assert result["accuracy_pct"] == pytest.approx(plan["accuracy_pct"], rel=0.01)
