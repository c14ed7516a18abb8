"""Two controllers of one name as real processes: one acts, also after it was stopped past its lease and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import all_answered, clover, generating, started, within
from servers import free_port

RATE = ("--rate", "5")


@dataclass(frozen=True)
class Controller:
    process: subprocess.Popen[str]
    port: int

    @property
    def acts(self) -> bool | None:
        """Whether it holds the lease, by its own metrics; None if it does not answer."""
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2).read().decode()
            return "clover_controller_acting 1.0" in text.splitlines()
        return None


def events(folder: Path) -> list[dict[str, Any]]:
    answer = clover(folder, "events", "--no-follow", "--json")
    return [json.loads(line) for line in answer.stdout.splitlines()]


def told_by_controllers(folder: Path) -> list[tuple[str, str, int]]:
    return [(e["kind"], e["subject"], e["epoch"]) for e in events(folder) if e["source"] == "controller"]


def plan(folder: Path) -> dict[str, Any]:
    answer = clover(folder, "status", "--json")
    return (json.loads(answer.stdout).get("plan") if answer.returncode == 0 else None) or {}


def in_force(folder: Path, variant: str) -> bool:
    now = plan(folder)
    variants = {i["variant"] for gpus in now.get("configuration", {}).values() for g in gpus for i in g["instances"]}
    return now.get("state") == "serving" and variants == {variant}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_two_controllers_of_one_name_one_acts_and_one_that_was_frozen_stands_by(tmp_path: Path) -> None:
    with ExitStack() as stack:

        def a_controller() -> Controller:
            port = free_port()
            told = ("agent", "controller", "--name", "controller", "--scheme", "base", "--metrics-port", str(port))
            return Controller(stack.enter_context(started(tmp_path, *told, *RATE)), port)

        stack.enter_context(started(tmp_path, "server"))
        stack.enter_context(started(tmp_path, "agent", "node", "--name", "n1", "--gpus", "2"))
        stack.enter_context(started(tmp_path, "agent", "carbon", "--trace", "constant:250"))
        first = a_controller()
        within(90, lambda: in_force(tmp_path, "xxlarge") and first.acts)
        generator = stack.enter_context(started(tmp_path, "agent", "generator", "--duration", "10m", "--json", *RATE))
        within(60, lambda: generating(tmp_path))

        second = a_controller()
        within(60, lambda: second.acts is False)
        assert first.acts
        assert plan(tmp_path)["controller"] == "controller"

        os.kill(first.process.pid, signal.SIGSTOP)
        within(30, lambda: second.acts)
        _pin(tmp_path, "7g:large")
        within(60, lambda: in_force(tmp_path, "large"))
        before = told_by_controllers(tmp_path)
        os.kill(first.process.pid, signal.SIGCONT)
        within(30, lambda: first.acts is False)
        # It has noticed, written nothing, and is as good as any other that stands by.
        assert second.acts
        second.process.kill()
        within(30, lambda: first.acts)
        taken = within(30, lambda: t if len(t := told_by_controllers(tmp_path)) > len(before) else None)
        assert taken[: len(before)] == before
        assert taken[len(before)][:2] == ("controller.took_over", "controller")
        _pin(tmp_path, "7g:base")
        within(60, lambda: in_force(tmp_path, "base"))
        generator.send_signal(signal.SIGTERM)
        out, err = generator.communicate(timeout=90.0)
        assert generator.returncode == 0, err
        told = events(tmp_path)
    steps = [event["epoch"] for event in told if event["kind"] == "plan.step"]
    assert steps == sorted(set(steps))
    kinds = [event["kind"] for event in told]
    assert kinds.count("controller.took_over") == 2
    # Who takes over decides once more on what is pinned, and on nothing else.
    assert {event["data"]["trigger"] for event in told if event["kind"] == "decision"} == {"start", "override"}
    assert not {"node.lost", "gpu.fenced", "plan.aborted"} & set(kinds)
    all_answered(json.loads(out), least=50)


def _pin(folder: Path, layout: str) -> None:
    answer = clover(folder, "plan", "pin", "n1/gpu0", "n1/gpu1", "--as", layout)
    assert answer.returncode == 0, answer.stderr
