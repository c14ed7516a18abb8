"""Control under faults with real processes: controllers die at every point of a roll, nodes in the middle of one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from control_points import POINTS
from processes import all_answered, clover, events, finished, generating, started, status, within

RATE = ("--rate", "2")
CONTROLLER = ("agent", "controller", "--scheme", "base", "--expect-nodes", "2", *RATE)
LAYOUTS = ("7g:large", "7g:xlarge")


def script(name: str) -> tuple[str, str]:
    """Return the command of a script beside the tests."""
    return sys.executable, str(Path(__file__).parent.parent / name)


def dying(
    folder: Path, name: str, point: tuple[str, int, str]
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start a controller that dies at a point once it is told to."""
    return started(folder, *map(str, point), *CONTROLLER, "--name", name, command=script("process_dying_controller.py"))


def plan(folder: Path) -> dict[str, Any]:
    return status(folder).get("plan") or {}


def serves(folder: Path, variant: str, holder: str) -> bool:
    """Return whether the plan of a controller with this variant is in force on all GPUs."""
    told = status(folder)
    now = told.get("plan") or {}
    if (now.get("state"), now.get("controller")) != ("serving", holder):
        return False
    gpus = [gpu for node in told["nodes"] for gpu in node["gpus"]]
    return len(gpus) == 2 and all(
        gpu["phase"] == "serving" and {instance["variant"] for instance in gpu["instances"]} == {variant}
        for gpu in gpus
    )


def pin(folder: Path, layout: str) -> None:
    answer = clover(folder, "plan", "pin", "n1/gpu0", "n2/gpu0", "--as", layout)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_controllers_die_at_every_point_of_a_roll_and_a_node_in_the_middle_of_one(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(len(POINTS) + 1)]
    with ExitStack() as stack:
        stack.enter_context(started(tmp_path, "server"))
        node = {
            name: stack.enter_context(started(tmp_path, "agent", "node", "--name", name, "--gpus", "1"))
            for name in ("n1", "n2")
        }
        stack.enter_context(started(tmp_path, "agent", "carbon", "--trace", "constant:250"))
        acting = stack.enter_context(dying(tmp_path, names[0], next(iter(POINTS.values()))))
        within(90, lambda: serves(tmp_path, "xxlarge", names[0]))
        generator = stack.enter_context(started(tmp_path, "agent", "generator", "--duration", "10m", "--json", *RATE))
        within(60, lambda: generating(tmp_path))
        for number, point in enumerate(POINTS):
            # The one that stands by dies at the next point, when it is its turn.
            following = list(POINTS.values())[(number + 1) % len(POINTS)]
            standby = stack.enter_context(dying(tmp_path, names[number + 1], following))
            before, variant = plan(tmp_path)["epoch"], LAYOUTS[number % 2]
            acting.send_signal(signal.SIGUSR1)
            pin(tmp_path, variant)
            assert acting.wait(timeout=90.0) == -signal.SIGKILL, point
            within(
                120, lambda variant=variant, number=number: serves(tmp_path, variant.split(":")[1], names[number + 1])
            )
            assert plan(tmp_path)["epoch"] >= before
            acting = standby
        took = [event["subject"] for event in events(tmp_path, "controller") if event["kind"] == "controller.took_over"]
        assert took == names[1:]
        _a_node_is_lost(tmp_path, node["n2"], stack)
        result = finished(generator)
        steps = [event["epoch"] for event in events(tmp_path, "plan") if event["kind"] == "plan.step"]
    assert steps == sorted(set(steps))
    all_answered(result, least=50)


def _a_node_is_lost(folder: Path, process: subprocess.Popen[str], stack: ExitStack) -> None:
    """Kill a node in the middle of a roll; the fleet is planned without it, and with it when it is back."""
    pin(folder, "7g:base")
    within(60, lambda: plan(folder).get("state") == "rolling")
    os.kill(process.pid, signal.SIGKILL)
    within(60, lambda: any(event["kind"] == "node.lost" for event in events(folder, "node")))
    holder = plan(folder)["controller"]
    stack.enter_context(started(folder, "agent", "node", "--name", "n2", "--gpus", "1"))
    within(120, lambda: serves(folder, "base", holder))


def phases(folder: Path) -> list[str]:
    return [gpu["phase"] for node in status(folder).get("nodes", []) for gpu in node["gpus"]]


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_gpu_whose_worker_processes_die_again_and_again_is_fenced_off_until_they_no_longer_do(tmp_path: Path) -> None:
    crashes = tmp_path / "crashes"
    cpu = ("--app", "efficientnet_lite", "--backend", "cpu")
    with ExitStack() as stack:
        stack.enter_context(started(tmp_path, "server"))
        stack.enter_context(
            started(
                tmp_path,
                *("agent", "node", "--name", "n1", "--gpus", "3", *cpu),
                command=script("process_fake_workers.py"),
                FAKE_WORKER_CRASHES=str(crashes),
            )
        )
        stack.enter_context(started(tmp_path, "agent", "carbon", "--trace", "constant:250"))
        stack.enter_context(started(tmp_path, "agent", "controller", "--scheme", "base", *cpu, *RATE))
        within(90, lambda: phases(tmp_path) == ["serving"] * 3)
        generator = stack.enter_context(
            started(
                tmp_path,
                *("agent", "generator", *cpu, "--duration", "10m", "--json", *RATE),
                command=script("process_fake_workers.py"),
            )
        )
        within(60, lambda: generating(tmp_path))
        crashes.write_text("n1/gpu1/")
        within(90, lambda: kinds(tmp_path)["gpu.fenced"])
        within(60, lambda: plan(tmp_path)["fenced"] == ["n1/gpu1"])
        deaths = kinds(tmp_path)["worker.died"]
        # It is tried again, ever more rarely, and kept out as long as that is in vain.
        within(60, lambda: kinds(tmp_path)["worker.died"] > deaths)
        assert not kinds(tmp_path)["gpu.returned"]
        crashes.unlink()
        within(120, lambda: kinds(tmp_path)["gpu.returned"])
        within(60, lambda: plan(tmp_path)["fenced"] == [] and phases(tmp_path) == ["serving"] * 3)
        result = finished(generator)
        told = events(tmp_path, "gpu") + events(tmp_path, "worker")
        decisions = [event["data"]["trigger"] for event in events(tmp_path, "decision")]
    # The others went on; what died with a worker was tried again.
    assert {event["subject"] for event in told if event["kind"] in {"gpu.failed", "gpu.fenced", "worker.died"}} == {
        "n1/gpu1"
    }
    fenced = next(event for event in told if event["kind"] == "gpu.fenced")
    assert "ended with code 3" in fenced["reason"]
    assert "fallen off the bus" in str(next(event for event in told if event["kind"] == "worker.died")["data"])
    # Once without it, once with it again.
    assert Counter(decisions)["fleet"] == 2
    assert len(decisions) <= 5
    all_answered(result, least=50)


def kinds(folder: Path) -> Counter[str]:
    """Count the events about GPUs and workers by kind."""
    return Counter(event["kind"] for name in ("gpu", "worker") for event in events(folder, name))
