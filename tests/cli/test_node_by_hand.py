"""`clover node`: one node by hand, without a controller, past one, and given back."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from processes import clover, generating, result_of, started, up, within


def node(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    answer = clover(folder, "node", *arguments, "--json")
    assert answer.returncode == code, answer.stderr
    return json.loads(answer.stdout) if code == 0 else {"error": answer.stderr}


def status(folder: Path) -> dict[str, Any]:
    answer = clover(folder, "status", "--json")
    return json.loads(answer.stdout) if answer.returncode == 0 else {}


def serves(folder: Path, name: str) -> dict[int, list[str]]:
    (told,) = [node for node in status(folder)["nodes"] if node["node"] == name]
    return {gpu["index"]: [f"{i['profile']}:{i['variant']}" for i in gpu["instances"]] for gpu in told["gpus"]}


@pytest.mark.slow
def test_a_node_without_a_controller_does_what_it_is_told(tmp_path: Path) -> None:
    with started(tmp_path, "server"), started(tmp_path, "agent", "node", "--name", "n1", "--gpus", "2") as agent:
        within(20, lambda: status(tmp_path).get("nodes"))
        done = node(tmp_path, "configure", "n1", "--partition", "4g+3g", "--variants", "large,base", "--wait")
        assert done["in_force"]
        assert serves(tmp_path, "n1") == {0: ["4g:large", "3g:base"], 1: ["4g:large", "3g:base"]}
        done = node(tmp_path, "start", "n1", "--gpu", "1", "--variants", "base", "--wait")
        assert [gpu["changed"] for gpu in done["gpus"]] == [False, True]
        assert serves(tmp_path, "n1") == {0: ["4g:large", "3g:base"], 1: ["4g:base", "3g:base"]}
        refused = node(tmp_path, "configure", "n1", "--partition", "1g", "--variants", "huge", "--wait", code=6)
        assert "refuses the target" in refused["error"]
        assert "'huge'" in refused["error"]
        assert node(tmp_path, "stop", "n1", "--gpu", "0", "--wait")["gpus"][0]["phase"] == "parked"
        assert "'n9' is not heard of, expected one of n1" in node(tmp_path, "stop", "n9", code=6)["error"]
        assert "2x7g" in node(tmp_path, "configure", "n1", "--partition", "7g+7g", code=3)["error"]
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20) == 0


@pytest.mark.slow
def test_past_a_controller_only_what_was_taken_from_it(tmp_path: Path) -> None:
    with up(tmp_path, "--gpus", "4", "--nodes", "2", "--trace", "constant:250", duration="10m") as process:
        within(40, lambda: generating(tmp_path))
        names = [one["node"] for one in status(tmp_path)["nodes"]]
        mine, other = names
        refused = node(tmp_path, "stop", mine, code=3)
        assert "acts and would replace" in refused["error"]
        assert "--take" in refused["error"]
        drained = node(tmp_path, "drain", mine, "--within", "30s")
        assert drained["in_force"]
        assert drained["in_flight"] == 0
        found = status(tmp_path)
        assert found["override"]["nodes"] == [mine]
        # The controller goes on with the other one and leaves this one as it is.
        within(20, lambda: set(status(tmp_path)["plan"]["configuration"]) == {other})
        assert serves(tmp_path, mine) == {0: [], 1: []}
        assert node(tmp_path, "configure", mine, "--partition", "7g", "--variants", "base", "--wait")["in_force"]
        assert node(tmp_path, "release", mine)["released"]
        within(20, lambda: set(status(tmp_path)["plan"]["configuration"]) == {mine, other})
        kinds = [
            json.loads(line)["kind"]
            for line in clover(tmp_path, "events", "--no-follow", "--json", "--kind", "node").stdout.splitlines()
        ]
        process.send_signal(signal.SIGINT)
        result = result_of(process)
    assert {"node.taken", "node.by_hand", "node.released"} <= set(kinds)
    assert result["requests"]["lost"] == result["requests"]["failed"] == 0


def test_no_server_is_said_at_once(tmp_path: Path) -> None:
    answer = clover(tmp_path, "node", "drain", "n1")
    assert answer.returncode == 4
    assert "no server is known" in answer.stderr
