"""`clover up` with real processes and a real server, and what happens when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from processes import (
    CLOVER,
    all_answered,
    child_of,
    clover,
    descendants,
    environment,
    generating,
    result_of,
    started,
    up,
    within,
)


def test_up_serves_and_tells_what_it_did(tmp_path: Path) -> None:
    with up(tmp_path) as process:
        result = result_of(process)
    all_answered(result)
    assert result["schema"] == 1
    assert result["energy_source"] == "simulated"
    assert result["saved_pct"] == pytest.approx(result["predicted"]["saved_pct"], abs=4.0)
    assert result["accuracy_pct"] == pytest.approx(result["predicted"]["accuracy_pct"], rel=0.02)
    assert not (tmp_path / "clover.json").exists()
    shown = json.loads(clover(tmp_path, "runs", "show", "last", "--json").stdout)
    assert shown["summary"] == result
    assert shown["run"]["state"] == "finished"
    assert {node: len(uuids) for node, uuids in shown["run"]["hardware"]["uuids"].items()} == {"n1": 5, "n2": 5}


def test_kill_9_of_a_node_and_of_the_controller_loses_nothing(tmp_path: Path) -> None:
    bursts = ("--arrivals", "gamma", "--smoothness", "0.7", "--shape", "sine", "--peak", "1.4")
    with up(tmp_path, *bursts, duration="20s") as process:
        within(40, lambda: generating(tmp_path))
        os.kill(within(5, lambda: child_of(process.pid, "node", "n1")), signal.SIGKILL)
        os.kill(within(5, lambda: child_of(process.pid, "controller")), signal.SIGKILL)
        result = result_of(process)
        told = clover(tmp_path, "status")
    all_answered(result)
    assert result["arrivals"] == "gamma (smoothness 0.7), sine over 20 s, open loop"
    assert told.returncode == 4  # the deployment has ended


def test_kill_9_of_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    with up(tmp_path, duration="60s") as process:
        within(40, lambda: generating(tmp_path))
        children = descendants(process.pid)
        assert len(children) >= 6
        process.kill()
        process.wait()
        within(5, lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_ctrl_c_lets_requests_finish_and_a_second_deployment_is_refused(tmp_path: Path) -> None:
    with up(tmp_path, duration="60s") as process:
        within(40, lambda: generating(tmp_path))
        second = clover(tmp_path, "up", "--duration", "1s", "--no-tui")
        assert second.returncode == 3
        assert "already running" in second.stderr
        process.send_signal(signal.SIGINT)
        result = result_of(process)
    assert result["requests"]["sent"] > 0
    assert result["requests"]["lost"] == result["requests"]["duplicate"] == 0


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    with up(tmp_path, duration="60s") as process:
        within(40, lambda: generating(tmp_path))
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        line = process.stderr.readline()
        while "again stops at once" not in line:
            line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    within(5, lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_five_terminals_in_any_order_find_each_other(tmp_path: Path) -> None:
    short = ("--deployment", "five")
    with contextlib.ExitStack() as stack:
        generator = stack.enter_context(
            started(tmp_path, "agent", "generator", "--rate", "10", "--duration", "8s", "--json", *short)
        )
        stack.enter_context(
            started(
                tmp_path, "agent", "controller", "--expect-nodes", "2", "--rate", "10", "--scheme", "co2opt", *short
            )
        )
        stack.enter_context(started(tmp_path, "agent", "node", "--name", "n1", "--gpus", "2", *short))
        stack.enter_context(started(tmp_path, "agent", "node", "--name", "n2", "--gpus", "2", *short))
        stack.enter_context(started(tmp_path, "agent", "carbon", "--hour", "5s", *short))
        stack.enter_context(started(tmp_path, "server", *short))
        requests = result_of(generator)["requests"]
        ready = clover(tmp_path, "status", "--wait-ready", "--json", *short)
        events = clover(tmp_path, "events", "--no-follow", "--kind", "decision", "--json", *short)
    assert requests["sent"] > 30
    assert requests["lost"] == requests["duplicate"] == requests["failed"] == 0
    assert json.loads(ready.stdout)["plan"]["scheme"] == "co2opt"
    decisions = [json.loads(line) for line in events.stdout.splitlines()]
    assert decisions[0]["data"]["trigger"] == "start"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("up", "--app", "bert"), 3, "application 'bert' is unknown"),
        (("up", "--trace", "mars"), 3, "trace 'mars' is unknown"),
        (("up", "--gpu-model", "v100"), 3, "v100"),
        (("up", "--scheme", "magic"), 3, "scheme 'magic' is unknown"),
        (("up", "--lambda", "2"), 3, "--lambda = 2"),
        (("up", "--rate", "0"), 3, "--rate = 0"),
        (("up", "--shape", "square"), 3, "shape = 'square'"),
        (("up", "--load-trace", "none.csv", "--rate", "3"), 3, "--rate and --load-trace"),
        (("up", "--load-trace", "none.csv"), 3, "arrivals none.csv: No such file"),
        (("up", "--nodes", "11"), 3, "--nodes = 11"),
        (("up", "--backend", "cpu"), 3, "albert has not been measured on a CPU yet"),
        (("up", "--hour", "soon"), 2, "is not a duration"),
        (("up", "--deployment", "No Such"), 3, "No Such"),
        (("up", "--redis", "redis://127.0.0.1:1", "--no-tui"), 4, "127.0.0.1:1"),
        (("status",), 4, "no server is known"),
        (("mig", "partitions", "--gpu-model", "v100"), 3, "v100"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    answer = clover(tmp_path, *arguments)
    assert answer.returncode == code, answer.stderr
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    import socket  # noqa: PLC0415

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = clover(tmp_path, "server", "--port", str(taken.getsockname()[1]))
    assert answer.returncode == 3
    assert "port" in answer.stderr


def test_a_broken_trace_file_is_named(tmp_path: Path) -> None:
    trace = tmp_path / "gap.csv"
    trace.write_text("hour,intensity_g_per_kwh\n0,100\n2,100\n")
    answer = clover(tmp_path, "up", "--trace", str(trace))
    assert answer.returncode == 3
    assert "line 3" in answer.stderr


def test_the_settings_file_gives_defaults_and_refuses_unknown_keys(tmp_path: Path) -> None:
    config = tmp_path / "clover.toml"
    values = environment(tmp_path) | {"CLOVER_CONFIG": str(config)}
    config.write_text("[up]\nlambda = 2.0\n")
    answer = subprocess.run([*CLOVER, "up"], env=values, capture_output=True, text=True, timeout=30, check=False)
    assert (answer.returncode, "--lambda = 2.0" in answer.stderr) == (3, True)
    config.write_text("gpu = 3\n")
    answer = subprocess.run([*CLOVER, "up"], env=values, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 3
    assert "did you mean 'gpus'" in answer.stderr
