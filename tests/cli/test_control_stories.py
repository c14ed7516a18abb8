"""What goes wrong in real deployments, and what is told of it: real processes on a real server."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import all_answered, clover, events, finished, generating, started, status, within

from clover.serving.availability import MODELS_HINT, missing_packages

FAKE_WORKERS = (sys.executable, str(Path(__file__).parent.parent / "process_fake_workers.py"))
SHIPPED = Path(__file__).parents[2] / "clover" / "data" / "profiles" / "a100-40gb" / "albert.json"


def table(path: Path, *, slower: float = 1.0) -> str:
    """Write the shipped table with changes that take less time; return its path."""
    told = json.loads(SHIPPED.read_text())
    told["change"] |= {"create_s": 0.1, "destroy_s": 0.1, "worker_start_s": 0.5, "provenance": "shortened for a test"}
    for variant in told["variants"].values():
        variant["host_ms"] *= slower
        variant["service_ms"] = {profile: slower * ms for profile, ms in variant["service_ms"].items()}
    path.write_text(json.dumps(told))
    return str(path)


def served_with(folder: Path) -> dict[str, tuple[str, set[str]]]:
    """Return the phase of each GPU and the variants that its instances serve."""
    return {
        f"{node['node']}/gpu{gpu['index']}": (gpu["phase"], {each["variant"] for each in gpu["instances"]})
        for node in status(folder).get("nodes", [])
        for gpu in node["gpus"]
    }


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.skipif(bool(missing_packages()), reason=MODELS_HINT)
@pytest.mark.timeout(300)
def test_a_gpu_that_never_becomes_ready_is_rolled_back_and_the_others_change(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    cpu = ("--app", "efficientnet_lite", "--backend", "cpu")
    rate = ("--rate", "2")
    with ExitStack() as stack:
        stack.enter_context(started(tmp_path, "server"))
        stack.enter_context(
            started(
                tmp_path,
                *("agent", "node", "--name", "n1", "--gpus", "3", *cpu),
                command=FAKE_WORKERS,
                FAKE_WORKER_HANGS=str(hangs),
                FAKE_WORKER_READY_S="2",
            )
        )
        stack.enter_context(started(tmp_path, "agent", "carbon", "--trace", "constant:250"))
        stack.enter_context(started(tmp_path, "agent", "controller", "--scheme", "base", *cpu, *rate))
        within(90, lambda: {phase for phase, _ in served_with(tmp_path).values()} == {"serving"})
        generator = stack.enter_context(
            started(tmp_path, "agent", "generator", *cpu, "--duration", "10m", "--json", *rate)
        )
        within(60, lambda: generating(tmp_path))
        hangs.write_text("n1/gpu1/")
        pinned = clover(tmp_path, "plan", "pin", *(f"n1/gpu{index}" for index in range(3)), "--as", "7g:lite0")
        assert pinned.returncode == 0, pinned.stderr
        within(90, lambda: any(event["kind"] == "gpu.rolled_back" for event in events(tmp_path, "gpu")))
        new, old = ("serving", {"lite0"}), ("serving", {"lite2"})
        within(90, lambda: served_with(tmp_path) == {"n1/gpu0": new, "n1/gpu1": old, "n1/gpu2": new})
        within(30, lambda: status(tmp_path)["plan"]["fenced"] == ["n1/gpu1"])
        result = finished(generator)
        told = events(tmp_path, "gpu")
        aborted = events(tmp_path, "plan.aborted")
    story = [event["kind"] for event in told if event["subject"] == "n1/gpu1"]
    assert story.index("gpu.failed") < story.index("gpu.fenced") < story.index("gpu.rolled_back")
    assert {event["subject"] for event in told if event["kind"] in {"gpu.failed", "gpu.fenced"}} == {"n1/gpu1"}
    fenced = next(event for event in told if event["kind"] == "gpu.fenced")
    assert "not ready" in fenced["reason"], fenced
    back = next(event for event in told if event["kind"] == "gpu.rolled_back")
    assert "7g:lite2" in back["reason"]
    assert "n1/gpu1" in aborted[0]["reason"]
    all_answered(result, least=5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_table_that_is_wrong_by_half_is_seen_corrected_and_planned_with(tmp_path: Path) -> None:
    right, wrong = table(tmp_path / "right.json", slower=2.0), table(tmp_path / "wrong.json")
    # The reserve carries what the wrong plan leaves, and hardly anybody is late: nothing but drift asks for a plan.
    asked = ("--sla", "1000", "--rate", "20", "--reserve", "2", "--scheme", "exact", "--lambda", "0.5")
    with ExitStack() as stack:
        stack.enter_context(started(tmp_path, "server"))
        stack.enter_context(started(tmp_path, "agent", "node", "--name", "n1", "--gpus", "4", "--profile", right))
        stack.enter_context(started(tmp_path, "agent", "carbon", "--trace", "constant:250"))
        stack.enter_context(started(tmp_path, "agent", "controller", *asked, "--profile", wrong))
        within(90, lambda: in_force(tmp_path) == 1)
        generator = stack.enter_context(
            started(tmp_path, "agent", "generator", "--rate", "20", "--duration", "10m", "--json")
        )
        within(120, lambda: any(event["data"]["trigger"] == "drift" for event in events(tmp_path, "decision")))
        within(60, lambda: in_force(tmp_path) > 1)
        in_use = status(tmp_path)["plan"]["calibration"]["service"]
        result = finished(generator)
        updated, decisions = events(tmp_path, "calibration"), events(tmp_path, "decision")
    first, drift = decisions[0], next(event for event in decisions if event["data"]["trigger"] == "drift")
    assert updated[0]["kind"] == "calibration.updated"
    assert "off the table" in updated[0]["reason"]
    assert drift["reason"].startswith(updated[0]["reason"])
    # The kinds that served are twice as slow as the table said, and that is what the plan in force was made with.
    factors = updated[0]["data"]["service"]
    assert factors
    for kind, factor in factors.items():
        variant, _, profile = kind.partition("/")
        assert f"{profile}:{variant}" in first["subject"]
        assert factor == pytest.approx(2.0, rel=0.15)
    assert in_use.items() >= factors.items()
    assert drift["subject"] != first["subject"]
    assert drift["data"]["meets_sla"]
    all_answered(result, least=300)


def in_force(folder: Path) -> int:
    """Return the number of the decision that is in force everywhere, 0 while none is."""
    plan = status(folder).get("plan") or {}
    return plan["decision"] if plan.get("state") == "serving" else 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_candidates_are_tried_on_live_traffic_and_what_that_costs_is_told(tmp_path: Path) -> None:
    asked = ("--scheme", "clover", "--parking", "none", "--evaluate", "live", "--profile", table(tmp_path / "t.json"))
    load = ("--gpus", "16", "--rate", "100", "--trace", "constant:250", "--no-tui", "--json")
    with started(tmp_path, "up", *asked, *load) as process:
        within(200, lambda: len(events(tmp_path, "live")) >= 2)
        measured = events(tmp_path, "live")
        candidates = [e for e in events(tmp_path, "decision") if "to be measured on live traffic" in e["reason"]]
        result = finished(process)
    assert {event["kind"] for event in measured} == {"live.measured"}
    assert len(candidates) >= 2
    for event in measured:
        data = event["data"]
        # As many requests as the original judged by, of which each candidate has its own.
        assert data["requests"] == pytest.approx(1000, rel=0.3)
        assert data["seconds"] >= 9.0
        assert data["energy_j"] > 0.0
        assert data["meets_sla"] is (data["late"] <= 0.05 * data["requests"])
        assert f"{data['late']} of {data['requests']} late" in event["reason"]
        assert ("keeps" if data["meets_sla"] else "breaks") in event["reason"]
    assert {event["subject"] for event in measured} <= {event["subject"] for event in candidates}
    assert result["requests"]["lost"] == result["requests"]["failed"] == result["requests"]["duplicate"] == 0
    tried = result["tried_live"]
    assert tried["candidates"] >= len(measured) >= 2
    for name in ("requests", "late", "energy_j", "seconds"):
        assert tried[name] >= sum(event["data"][name] for event in measured)
