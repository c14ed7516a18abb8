"""`clover up` and `clover dashboard --control` at a keyboard: real processes on a pseudo-terminal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import CLOVER, child_of, clover, environment, generating, up, within
from terminal import LEAVE, TAKE, Terminal

#: Two GPUs, and an hour that outlasts the test.
SMALL = ("--gpus", "2", "--nodes", "1", "--hour", "1h", "--rate", "2", "--no-archive")
#: A line of status, as it is written where nothing is drawn.
LINE = b"| epoch 1 serving |"


@contextmanager
def up_on_a_terminal(folder: Path) -> Iterator[tuple[Terminal, int, int]]:
    """Yield the terminal, and the process ids of `up` and of what draws, once the deployment is drawn serving."""
    command = [*CLOVER, "up", *SMALL, "--runs-dir", str(folder / "runs")]
    with Terminal(command, shell=True, environment=environment(folder), size=(120, 40)) as terminal:
        terminal.until(TAKE)
        terminal.until(b"1 serving", limit_s=60.0)
        drawing = within(5, lambda: child_of(terminal.process.pid, "cli.dashboard_child"))
        supervisor = within(5, lambda: child_of(terminal.process.pid, "cli", "up"))
        assert drawing != supervisor
        yield terminal, supervisor, drawing


def said_after(terminal: Terminal) -> bytes:
    """Return what was written after the screen was given back last."""
    return terminal.output.rpartition(LEAVE)[2]


def test_q_ends_the_deployment_with_its_summary(tmp_path: Path) -> None:
    with up_on_a_terminal(tmp_path) as (terminal, supervisor, drawing):
        assert os.getpgid(drawing) == os.getpgid(supervisor), "keys would not reach it"
        terminal.press(b"2")
        terminal.until(b"GPUs by node")
        terminal.press(b"q")
        assert terminal.after(limit_s=60.0) == terminal.before
        assert terminal.process.returncode == 0
        assert b"requests    " in said_after(terminal)


@pytest.mark.slow
def test_ctrl_c_leaves_the_screen_says_what_happens_and_a_second_one_ends_at_once(tmp_path: Path) -> None:
    with up_on_a_terminal(tmp_path) as (terminal, supervisor, drawing):
        terminal.press(b"\x03")
        terminal.until(b"Ctrl-C again stops at once")
        assert b"stopping: requests in work are finished" in said_after(terminal)
        assert terminal.settings() == terminal.before
        assert not Path(f"/proc/{drawing}").exists()
        os.kill(supervisor, signal.SIGINT)
        terminal.after(limit_s=60.0)
        # Whether the first has ended by itself by then is a race that both may win.
        assert terminal.process.returncode in {0, 130}


@pytest.mark.slow
def test_a_dashboard_that_dies_leaves_the_deployment_and_a_usable_terminal(tmp_path: Path) -> None:
    with up_on_a_terminal(tmp_path) as (terminal, supervisor, drawing):
        os.kill(drawing, signal.SIGKILL)
        terminal.until(b"killed by signal 9")
        assert terminal.settings() == terminal.before
        terminal.until(LINE)
        assert LINE in said_after(terminal)
        assert Path(f"/proc/{supervisor}").exists()
        within(20, lambda: generating(tmp_path))
        terminal.press(b"\x03")
        terminal.after(limit_s=60.0)
        assert terminal.process.returncode == 0
        assert b"requests    " in said_after(terminal)


@pytest.mark.slow
def test_suspended_the_shell_has_the_terminal_and_serving_goes_on(tmp_path: Path) -> None:
    with up_on_a_terminal(tmp_path) as (terminal, _, _):
        terminal.press(b"\x1a")
        terminal.until(b"job stopped")
        assert said_after(terminal).strip().startswith(b"job stopped")
        assert terminal.settings() == terminal.before
        within(20, lambda: generating(tmp_path))
        terminal.output = b""
        terminal.press(b"fg\n")
        terminal.until(TAKE)
        terminal.until(b"1 serving")
        terminal.press(b"q")
        assert terminal.after(limit_s=60.0) == terminal.before
        assert terminal.process.returncode == 0


@pytest.mark.slow
def test_a_supervisor_that_is_killed_takes_the_picture_with_it(tmp_path: Path) -> None:
    with up_on_a_terminal(tmp_path) as (terminal, supervisor, drawing):
        os.kill(supervisor, signal.SIGKILL)
        terminal.until(b"job killed")
        terminal.until(LEAVE)
        within(10, lambda: not Path(f"/proc/{drawing}").exists())
        assert terminal.settings() == terminal.before


# --- control


def overridden(folder: Path) -> dict[str, Any]:
    return json.loads(clover(folder, "status", "--json").stdout)["override"]


def phases(folder: Path) -> dict[str, str]:
    nodes = json.loads(clover(folder, "status", "--json").stdout)["nodes"]
    return {f"{node['node']}/{gpu['index']}": gpu["phase"] for node in nodes for gpu in node["gpus"]}


@pytest.mark.slow
def test_keys_change_a_deployment_only_with_control_and_only_after_yes(tmp_path: Path) -> None:
    with up(tmp_path, *SMALL, "--parking", "none", duration="5m") as _:
        within(60, lambda: generating(tmp_path))
        command = [*CLOVER, "dashboard", "--control"]
        with Terminal(command, shell=True, environment=environment(tmp_path), size=(200, 40)) as terminal:
            terminal.until(b"c n x control")
            # Not without yes.
            terminal.press(b"c")
            terminal.until(b"pause the controller")
            terminal.press(b"n")
            terminal.press(b"c")
            terminal.press(b"y")
            terminal.until(b"CONTROLLER PAUSED")
            terminal.until(b"overruled")
            assert overridden(tmp_path)["paused"]
            terminal.output = b""
            terminal.press(b"cy")
            terminal.until(b"clover plan resume: nothing is overridden")
            assert not overridden(tmp_path)["paused"]
            # One GPU is parked by hand: it is told, and it happens.
            terminal.press(b"xn1/1\r")
            terminal.until(b"park n1/1, or release it")
            terminal.press(b"y")
            terminal.until(b" 1 PINNED ")
            within(30, lambda: phases(tmp_path) == {"n1/0": "serving", "n1/1": "parked"})
            terminal.until(b"n1/gpu1 pinned")
            terminal.output = b""
            terminal.press(b"xn1/1\ry")
            terminal.until(b"clover plan unpin n1/gpu1: nothing is overridden")
            within(60, lambda: phases(tmp_path) == {"n1/0": "serving", "n1/1": "serving"})
            # All of them are pinned as they are, and released.
            terminal.press(b"ny")
            terminal.until(b" 2 PINNED ")
            assert len(overridden(tmp_path)["pins"]) == 2
            terminal.output = b""
            terminal.press(b"ny")
            terminal.until(b"clover plan unpin: nothing is overridden")
            assert overridden(tmp_path)["pins"] == []
            # What cannot be is said, and changes nothing.
            terminal.press(b"xn9/0\ry")
            terminal.until(b"not there, expected one of: n1")
            terminal.press(b"q")
            assert terminal.after() == terminal.before


@pytest.mark.slow
def test_without_control_the_same_keys_change_nothing(tmp_path: Path) -> None:
    with up(tmp_path, *SMALL, duration="5m") as _:
        within(60, lambda: generating(tmp_path))
        with Terminal(
            [*CLOVER, "dashboard"], shell=True, environment=environment(tmp_path), size=(120, 40)
        ) as terminal:
            terminal.until(b"1 serving")
            terminal.press(b"c")
            terminal.until(b"only with clover dashboard --control")
            terminal.press(b"y")
            assert not overridden(tmp_path)["paused"]
            terminal.press(b"q")
            assert terminal.after() == terminal.before
