"""`clover up` with real processes and a real server, and what happens when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CLOVER = [sys.executable, "-m", "cli"]


def _environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLOVER_")}
    return kept | {"CLOVER_STATE_DIR": str(folder)}


def _clover(folder: Path, *arguments: str, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLOVER, *arguments], env=_environment(folder), capture_output=True, text=True, timeout=limit_s, check=False
    )


@contextlib.contextmanager
def _started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*CLOVER, *arguments],
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _up(
    folder: Path, *arguments: str, duration: str = "15s"
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return _started(folder, "up", "--duration", duration, "--hour", "5s", "--no-tui", "--json", *arguments)


def _descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
    found, fresh = set[int](), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def _child(pid: int, *words: str) -> int | None:
    for child in _descendants(pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if all(word.encode() in command for word in words):
                return child
    return None


def _within(limit_s: float, condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < until, "condition did not become true"
        time.sleep(0.05)
    return value


def _generating(folder: Path) -> bool:
    """Return whether requests are being answered."""
    answer = _clover(folder, "status", "--json")
    return answer.returncode == 0 and any(sum(n["begun"].values()) for n in json.loads(answer.stdout)["nodes"])


def _result(process: subprocess.Popen[str], limit_s: float = 90.0) -> dict[str, Any]:
    out, err = process.communicate(timeout=limit_s)
    assert process.returncode == 0, err
    return json.loads(out)


def _all_answered(result: dict[str, Any]) -> None:
    requests = result["requests"]
    assert requests["sent"] > 100
    assert requests["lost"] == requests["duplicate"] == requests["failed"] == requests["expired"] == 0


def test_up_serves_and_tells_what_it_did(tmp_path: Path) -> None:
    with _up(tmp_path) as process:
        result = _result(process)
    _all_answered(result)
    assert result["schema"] == 1
    assert result["energy_source"] == "simulated"
    assert result["saved_pct"] == pytest.approx(result["predicted"]["saved_pct"], abs=4.0)
    assert result["accuracy_pct"] == pytest.approx(result["predicted"]["accuracy_pct"], rel=0.02)
    assert not (tmp_path / "clover.json").exists()


def test_kill_9_of_a_node_and_of_the_controller_loses_nothing(tmp_path: Path) -> None:
    with _up(tmp_path, duration="20s") as process:
        _within(40, lambda: _generating(tmp_path))
        os.kill(_within(5, lambda: _child(process.pid, "node", "n1")), signal.SIGKILL)
        os.kill(_within(5, lambda: _child(process.pid, "controller")), signal.SIGKILL)
        result = _result(process)
        told = _clover(tmp_path, "status")
    _all_answered(result)
    assert told.returncode == 4  # the deployment has ended


def test_kill_9_of_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    with _up(tmp_path, duration="60s") as process:
        _within(40, lambda: _generating(tmp_path))
        children = _descendants(process.pid)
        assert len(children) >= 6
        process.kill()
        process.wait()
        _within(5, lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_ctrl_c_lets_requests_finish_and_a_second_deployment_is_refused(tmp_path: Path) -> None:
    with _up(tmp_path, duration="60s") as process:
        _within(40, lambda: _generating(tmp_path))
        second = _clover(tmp_path, "up", "--duration", "1s", "--no-tui")
        assert second.returncode == 3
        assert "already running" in second.stderr
        process.send_signal(signal.SIGINT)
        result = _result(process)
    assert result["requests"]["sent"] > 0
    assert result["requests"]["lost"] == result["requests"]["duplicate"] == 0


def test_five_terminals_in_any_order_find_each_other(tmp_path: Path) -> None:
    short = ("--deployment", "five")
    with contextlib.ExitStack() as stack:
        generator = stack.enter_context(
            _started(tmp_path, "agent", "generator", "--rate", "10", "--duration", "8s", "--json", *short)
        )
        stack.enter_context(
            _started(
                tmp_path, "agent", "controller", "--expect-nodes", "2", "--rate", "10", "--scheme", "co2opt", *short
            )
        )
        stack.enter_context(_started(tmp_path, "agent", "node", "--name", "n1", "--gpus", "2", *short))
        stack.enter_context(_started(tmp_path, "agent", "node", "--name", "n2", "--gpus", "2", *short))
        stack.enter_context(_started(tmp_path, "agent", "carbon", "--hour", "5s", *short))
        stack.enter_context(_started(tmp_path, "server", *short))
        requests = _result(generator)["requests"]
        ready = _clover(tmp_path, "status", "--wait-ready", "--json", *short)
        events = _clover(tmp_path, "events", "--no-follow", "--kind", "decision", "--json", *short)
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
        (("up", "--nodes", "11"), 3, "--nodes = 11"),
        (("up", "--backend", "cpu"), 3, "no performance table of albert on GPU model 'cpu'"),
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
    answer = _clover(tmp_path, *arguments)
    assert answer.returncode == code, answer.stderr
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    import socket  # noqa: PLC0415

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = _clover(tmp_path, "server", "--port", str(taken.getsockname()[1]))
    assert answer.returncode == 3
    assert "port" in answer.stderr


def test_a_broken_trace_file_is_named(tmp_path: Path) -> None:
    trace = tmp_path / "gap.csv"
    trace.write_text("hour,intensity_g_per_kwh\n0,100\n2,100\n")
    answer = _clover(tmp_path, "up", "--trace", str(trace))
    assert answer.returncode == 3
    assert "line 3" in answer.stderr


def test_the_settings_file_gives_defaults_and_refuses_unknown_keys(tmp_path: Path) -> None:
    config = tmp_path / "clover.toml"
    environment = _environment(tmp_path) | {"CLOVER_CONFIG": str(config)}
    config.write_text("[up]\nlambda = 2.0\n")
    answer = subprocess.run([*CLOVER, "up"], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (answer.returncode, "--lambda = 2.0" in answer.stderr) == (3, True)
    config.write_text("gpu = 3\n")
    answer = subprocess.run([*CLOVER, "up"], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 3
    assert "did you mean 'gpus'" in answer.stderr
