"""`clover plan apply|pin|unpin|pause|resume` and `clover explain` against a deployment's server."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from support import telemetry
from test_status_events import Deployment, deployment, fill  # noqa: F401 - a fixture

from clover.bus.messages import Override
from clover.bus.port import Bus

FOUND: list[Override] = []


async def _with_node(bus: Bus) -> None:
    await bus.publish_telemetry(telemetry())


async def _look(bus: Bus) -> None:
    FOUND[:] = [await bus.override()]


def test_a_pause_is_kept_shown_and_taken_back(deployment: Deployment) -> None:  # noqa: F811
    deployment.write(fill)
    code, out, _ = deployment.run("plan", "pause", "--for", "1h", "--reason", "measuring")
    assert code == 0
    assert "paused     by" in out
    deployment.write(_look)
    assert FOUND[0].paused
    assert FOUND[0].paused_until_ms is not None
    assert "(measuring)" in deployment.run("status")[1]
    assert json.loads(deployment.run("status", "--json")[1])["override"]["paused"]
    assert deployment.run("plan", "resume")[0] == 0
    deployment.write(_look)
    assert not FOUND[0].paused


def test_pins_come_go_and_are_checked(deployment: Deployment) -> None:  # noqa: F811
    deployment.write(_with_node)
    pinned = deployment.run("plan", "pin", "n1/gpu0", "--as", "4g:large,3g:base", "--json")
    assert pinned[0] == 0, pinned[2]
    (pin,) = json.loads(pinned[1])["override"]["pins"]
    assert [each["profile"] for each in pin["gpu"]["instances"]] == ["4g", "3g"]
    assert "pinned     n1/gpu0 to 4g:large 3g:base, until taken back" in deployment.run("status")[1]
    assert deployment.run("plan", "unpin", "n1/gpu0")[0] == 0
    deployment.write(_look)
    assert FOUND[0].pins == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pin", "n1/0"), "GPU 'n1/0': expected node/gpuN"),
        (("pin", "n9/gpu0"), "node 'n9': not there, expected one of: n1"),
        (("pin", "n1/gpu0", "--as", "7g:huge"), "variant 'huge': unknown"),
        (("pin", "n1/gpu0", "--as", "7g:large,1g:base"), "the board does not allow it"),
        (("unpin", "n1/gpu0"), "is not pinned"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    deployment: Deployment,  # noqa: F811
    arguments: tuple[str, ...],
    told: str,
) -> None:
    deployment.write(_with_node)
    code, out, err = deployment.run("plan", *arguments)
    assert (code, out) == (3, "")
    assert told in err
    assert "Traceback" not in err


def test_a_plan_that_was_printed_can_be_applied(deployment: Deployment, tmp_path: Path) -> None:  # noqa: F811
    deployment.write(_with_node)
    file = tmp_path / "plan.json"
    gpu = {"node": "n1", "index": 0, "mode": "serving", "instances": [{"profile": "7g", "variant": "large"}]}
    file.write_bytes(msgspec.json.encode({"schema": 1, "objective": 0.1, "gpus": [gpu], "dispatch": {}}))
    code, out, err = deployment.run("plan", "apply", str(file), "--for", "2h")
    assert code == 0, err
    assert "pinned     n1/gpu0 to 7g:large, for another" in out
    file.write_text("{}")
    assert "expected what `clover plan --json` prints" in deployment.run("plan", "apply", str(file))[2]


def test_a_decision_is_explained(deployment: Deployment) -> None:  # noqa: F811
    assert "no decision is kept" in deployment.run("explain")[2]
    deployment.write(fill)
    code, out, _ = deployment.run("explain", "last")
    assert code == 0
    assert "decision 3 on intensity" in out
    assert "beat  7g:xxlarge" in out
    code, _, err = deployment.run("explain", "99")
    assert code == 3
    assert "epoch 99: not known" in err
    assert deployment.run("explain", "yesterday")[0] == 3
