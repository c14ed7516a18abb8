"""Nodes that are asked to stop, as real processes: planned without at once, and no news when everything is ended."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from processes import all_answered, clover, generating, result_of, started, up, within

RATE = ("--rate", "5")


def events(folder: Path) -> list[dict[str, Any]]:
    answer = clover(folder, "events", "--no-follow", "--json")
    return [json.loads(line) for line in answer.stdout.splitlines()]


def status(folder: Path) -> dict[str, Any]:
    answer = clover(folder, "status", "--json")
    return json.loads(answer.stdout) if answer.returncode == 0 else {"nodes": [], "plan": None}


def serve(folder: Path, *nodes: str) -> bool:
    told = status(folder)
    plan = told["plan"] or {}
    there = [node["node"] for node in told["nodes"]]
    return plan.get("state") == "serving" and list(plan["configuration"]) == there == [*nodes]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_that_is_asked_to_stop_has_left_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(started(tmp_path, "server"))
        nodes = {
            name: stack.enter_context(started(tmp_path, "agent", "node", "--name", name, "--gpus", "1"))
            for name in ("n1", "n2")
        }
        stack.enter_context(started(tmp_path, "agent", "carbon", "--trace", "constant:250"))
        stack.enter_context(started(tmp_path, "agent", "controller", "--scheme", "base", "--expect-nodes", "2", *RATE))
        within(90, lambda: serve(tmp_path, "n1", "n2"))
        generator = stack.enter_context(started(tmp_path, "agent", "generator", "--duration", "10m", "--json", *RATE))
        within(60, lambda: generating(tmp_path))
        nodes["n2"].send_signal(signal.SIGTERM)
        assert nodes["n2"].wait(timeout=30.0) == 0
        within(30, lambda: serve(tmp_path, "n1"))
        told = events(tmp_path)
        generator.send_signal(signal.SIGTERM)
        result = result_of(generator)
    kinds = [event["kind"] for event in told]
    assert kinds.count("node.left") == 1
    assert "node.lost" not in kinds
    left = next(event for event in told if event["kind"] == "node.left")
    assert left["subject"] == "n2"
    assert [event["data"]["trigger"] for event in told if event["kind"] == "decision"] == ["start", "fleet"]
    all_answered(result, least=10)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_deployment_that_is_ended_makes_no_plans_in_its_last_second(tmp_path: Path) -> None:
    own = ("--run-name", "ended", "--gpus", "2", "--nodes", "2", "--scheme", "base")
    with up(tmp_path, *own, "--rate", "10", duration="5s") as process:
        all_answered(result_of(process), least=10)
    told = clover(tmp_path, "logs", "export", "ended", str(tmp_path / "out"), "--format", "jsonl")
    assert told.returncode == 0, told.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert kinds.count("node.joined") == 2
    assert not {"node.left", "node.lost"} & set(kinds)
    # The grid moves meanwhile; the fleet does not.
    reasons = [row["reason"] for row in rows if row["kind"] == "decision"]
    assert reasons
    assert not [reason for reason in reasons if " left" in reason]
