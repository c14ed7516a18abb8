"""`clover status`, `clover events` and `clover dashboard` against a real server, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import a_target
from view_messages import (
    a_gpu,
    a_ledger,
    a_node,
    a_plan,
    an_event,
    an_instance,
    an_intensity,
    at,
)

from cli.events import describe
from clover.bus.embedded import EmbeddedServer
from clover.bus.messages import Alternative, DecisionData, LedgerCheckpoint
from clover.bus.port import Bus
from clover.bus.redis import connect
from clover.bus.values import Feed

ROOT = Path(__file__).parents[2]


class Deployment:
    """A deployment on the session's server, without agents: what they would write is written by the test."""

    def __init__(self, url: str, name: str, folder: Path) -> None:
        self.url, self.name, self._folder = url, name, folder

    def write(self, work: Callable[[Bus], Coroutine[Any, Any, None]]) -> None:
        async def connected() -> None:
            bus = connect(self.url, self.name, "test")
            try:
                await work(bus)
            finally:
                await bus.close()

        asyncio.run(connected())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CLOVER_")}
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments, "--deployment", self.name, "--redis", self.url],
            cwd=ROOT,
            env=kept | {"CLOVER_STATE_DIR": str(self._folder), "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60.0)
        return process.returncode, out, err


@pytest.fixture
def deployment(valkey: EmbeddedServer, tmp_path: Path, request: pytest.FixtureRequest) -> Deployment:
    name = "t" + format(abs(hash((request.node.nodeid, time.time_ns()))), "x")
    return Deployment(valkey.url, name, tmp_path)


@pytest.fixture
def nowhere(tmp_path: Path) -> Deployment:
    return Deployment("redis://127.0.0.1:1", "nowhere", tmp_path)


async def fill(bus: Bus) -> None:
    now_ms = time.time() * 1e3
    ledger = a_ledger(0.0, 3600.0)
    checkpoint = LedgerCheckpoint(
        ledger=ledger, trace_started_ms=0.0, telemetry_cursor="0", counters={}, counters_at_ms={}
    )
    await bus.publish_carbon([an_intensity(), ledger], checkpoint)
    gpus = (
        a_gpu(0, an_instance(0, 4, "large", "3g"), an_instance(4, 4, "large", "3g")),
        a_gpu(1, phase="parked", reason="epoch 1"),
    )
    await bus.publish_telemetry(a_node("n1", *gpus, at_ms=now_ms, applied_epoch=1, epoch=1))
    await bus.beat("node:n1")
    await bus.acquire_lease("c1", ttl_s=5.0)
    await bus.publish_plan("c1", a_plan(state="serving"), [a_target(node="n1")])
    decision = an_event(
        1.0, "decision", "intensity fell", subject="2 x [2x3g:large]",
        data=msgspec.to_builtins(DecisionData(
            decision=3, trigger="intensity",
            prediction=msgspec.structs.replace(a_plan().prediction, p95_ms=116.0, accuracy_pct=85.2),
            alternatives=(Alternative(
                configuration="7g:xxlarge", p95_ms=None, accuracy_pct=89.1, energy_j_per_request=53.0, objective=0.0,
                meets_sla=False,
            ),),
        )),
    )  # fmt: skip
    await bus.publish(Feed.EVENTS, [decision, an_event(2.0, "gpu.serving", "2x3g:large", subject="n1/gpu0")])


# --- status


def test_status_says_all_with_since_and_reason(deployment: Deployment) -> None:
    deployment.write(fill)

    code, out, err = deployment.run("status", "--json")

    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["schema"] == 1
    assert found["deployment"] == deployment.name
    assert found["plan"]["epoch"] == 1
    assert {"reason", "since_ms", "prediction", "sla_p95_ms"} <= set(found["plan"])
    assert found["intensity"]["g_per_kwh"] == 200.0
    assert found["ledger"]["energy_j"] == 3600.0
    assert found["queue"] == {"waiting": 0, "pending": 0, "admitted": 0, "oldest_age_s": 0.0}
    node = found["nodes"][0]
    assert (node["node"], node["state"]) == ("n1", "serving")
    assert node["reason"] == "1 of 2 GPUs serve, epoch 1 is applied"
    assert [(gpu["phase"], gpu["reason"]) for gpu in node["gpus"]] == [("serving", "epoch 7"), ("parked", "epoch 1")]
    assert all("since_ms" in thing for thing in (node, *node["gpus"], *found["agents"].values()))
    assert found["agents"]["node:n1"]["state"] == "alive"


def test_status_for_people(deployment: Deployment) -> None:
    deployment.write(fill)

    code, out, _ = deployment.run("status")

    assert code == 0
    for words in ("epoch 1, serving since", "p95 within 200 ms", "200 g/kWh since", "1.00 Wh", "node:n1: alive",
                  "gpu0   serving since", "3g@4:large", "gpu1   parked since", "predicted"):  # fmt: skip
        assert words in out, words


def test_status_of_an_empty_deployment(deployment: Deployment) -> None:
    code, out, _ = deployment.run("status")

    assert code == 0
    for words in ("none yet", "not known yet", "none has been heard of"):
        assert words in out, words


def test_status_without_a_server_exits_4_at_once_with_a_hint(nowhere: Deployment) -> None:
    started = time.monotonic()
    code, out, err = nowhere.run("status", "--json")

    assert (code, out) == (4, "")
    assert "hint:" in err
    assert time.monotonic() - started < 10.0


def test_status_waits_until_the_plan_is_in_force(deployment: Deployment) -> None:
    code, out, err = deployment.run("status", "--wait-ready", "--wait", "500ms")
    assert (code, out) == (5, "")
    assert "hint:" in err

    waiting = deployment.start("status", "--wait-ready", "--wait", "30s", "--json")
    deployment.write(fill)
    out, _ = waiting.communicate(timeout=60.0)

    assert waiting.returncode == 0
    assert json.loads(out)["plan"]["state"] == "serving"


# --- events


def test_events_are_told_with_reasons_and_beaten_alternatives(deployment: Deployment) -> None:
    deployment.write(fill)

    code, out, _ = deployment.run("events", "--no-follow")

    assert code == 0
    lines = out.splitlines()
    assert lines[0].endswith("decision 3 on intensity: intensity fell")
    assert "chose 2 x [2x3g:large]: p95 116 ms, accuracy 85.20 %" in lines[1]
    assert "beat  7g:xxlarge: p95 without bound (misses the SLA), accuracy 89.10 %" in lines[2]
    assert "gpu.serving" in lines[3]


def test_events_filter_and_json(deployment: Deployment) -> None:
    deployment.write(fill)

    _, out, _ = deployment.run("events", "--no-follow", "--json", "--kind", "decision")
    _, groups, _ = deployment.run("events", "--no-follow", "--json", "--kind", "gpu")

    (told,) = [json.loads(line) for line in out.splitlines()]
    assert (told["schema"], told["kind"], told["data"]["trigger"]) == (1, "decision", "intensity")
    assert [json.loads(line)["kind"] for line in groups.splitlines()] == ["gpu.serving"]
    assert deployment.run("events", "--no-follow", "--since-now")[1] == ""


def test_events_follow_until_interrupted(deployment: Deployment) -> None:
    deployment.write(fill)
    process = deployment.start("events", "--json")
    assert process.stdout is not None
    kinds = [json.loads(process.stdout.readline())["kind"] for _ in range(2)]

    async def more(bus: Bus) -> None:
        await bus.publish(Feed.EVENTS, [an_event(3.0, "node.lost", "silent for 9 s", subject="n1")])

    deployment.write(more)
    kinds.append(json.loads(process.stdout.readline())["kind"])
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30.0)

    assert kinds == ["decision", "gpu.serving", "node.lost"]
    assert (process.returncode, out, err) == (130, "", "")


def test_events_wait_for_a_server_and_say_so(nowhere: Deployment) -> None:
    code, out, err = nowhere.run("events", "--wait", "500ms")

    assert (code, out) == (4, "")
    assert "waiting for the server" in err


def test_events_find_a_server_that_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with EmbeddedServer(tmp_path / "server") as server:
            deployment, port = Deployment(server.url, "back", tmp_path), server.port
            bus = connect(server.url, "back", "test")
            await bus.publish(Feed.EVENTS, [an_event(1.0, "first")])
            await bus.close()
            process = await asyncio.to_thread(deployment.start, "events", "--json")
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            assert json.loads(line)["kind"] == "first"
        async with EmbeddedServer(tmp_path / "server", port=port) as server:
            bus = connect(server.url, "back", "test")
            await bus.publish(Feed.EVENTS, [an_event(2.0, "second")])
            await bus.close()
            line = await asyncio.to_thread(process.stdout.readline)
            assert json.loads(line)["kind"] == "second"
            process.send_signal(signal.SIGINT)
            _, err = await asyncio.to_thread(process.communicate, None, 30.0)
            assert process.returncode == 130
            assert "the server is lost" in err

    asyncio.run(scenario())


def test_what_others_write_cannot_take_over_the_terminal() -> None:
    (line,) = describe(an_event(0.0, "gpu.failed", "\x1b[2J\r\nboom"))

    assert line.isprintable()


# --- dashboard as a command


def test_dashboard_once_json_and_svg(deployment: Deployment, tmp_path: Path) -> None:
    deployment.write(fill)

    code, out, _ = deployment.run("dashboard", "--once")
    assert code == 0
    assert "n1/0" in out
    assert max(len(line) for line in out.splitlines()) <= 120

    _, out, _ = deployment.run("dashboard", "--once", "--json")
    found = json.loads(out)
    assert (found["schema"], found["epoch"], found["nodes"][0]["name"]) == (1, 1, "n1")
    assert found["intensity"]["history"] == [200.0]

    code, out, _ = deployment.run("dashboard", "--svg", str(tmp_path / "now.svg"))
    assert (code, out) == (0, "")
    assert (tmp_path / "now.svg").read_text().startswith("<svg")


def test_dashboard_prints_an_object_a_second(deployment: Deployment) -> None:
    deployment.write(fill)
    process = deployment.start("dashboard", "--json")
    assert process.stdout is not None
    found = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30.0)

    assert process.returncode == 0
    assert found[0]["at_ms"] < found[1]["at_ms"]
    assert found[1]["service"]["waiting"] == 0
    assert found[1]["nodes"][0]["gpus"][1]["since_s"] == pytest.approx((found[1]["at_ms"] - at(0.0)) / 1e3)
