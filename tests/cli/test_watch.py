"""What feeds the dashboard, and what its driver leaves on a terminal."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import eventually
from view_messages import (
    a_ledger,
    a_log,
    a_node,
    a_record,
    a_running_view,
    an_event,
    an_intensity,
    at,
    mixed_gpus,
)

from cli.dashboard_live import LiveDashboard
from cli.dashboard_options import ViewOptions
from cli.following import follow_into
from clover.analysis.view import DeploymentView
from clover.bus.memory import MemoryBus
from clover.bus.messages import LedgerCheckpoint
from clover.bus.port import Feed
from clover.errors import BusUnavailableError

ROOT = Path(__file__).parents[2]


# --- feeding


def checkpoint() -> LedgerCheckpoint:
    return LedgerCheckpoint(
        ledger=a_ledger(0.0, 0.0), trace_started_ms=0.0, telemetry_cursor="0", counters={}, counters_at_ms={}
    )


def test_follow_into_begins_with_what_is_kept_and_goes_on() -> None:
    async def scenario() -> None:
        now = [at(0.0)]
        bus, view, stop = MemoryBus("demo", lambda: now[0]), DeploymentView(), asyncio.Event()
        await bus.publish_carbon([an_intensity(), a_ledger(0.0, 0.0)], checkpoint())
        await bus.publish(Feed.EVENTS, [an_event(0.0, "generator.started")])
        for second in range(1, 31):
            now[0] = at(second)
            await bus.publish_carbon([a_ledger(second, 700.0 * second)], checkpoint())
            await bus.publish(Feed.LOG, [a_log(*[a_record(second - 0.5, 100.0)] * 10)])
            await bus.publish_telemetry(a_node("n1", *mixed_gpus(3), seconds=second))
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(follow_into(bus, view, stop))
            await reached(lambda: view.snapshot(at(31.0)).service.finished == 300)
            saved = view.snapshot(at(31.0)).saved
            assert saved is not None
            assert (saved.since_ms, saved.joined) == (at(0.0), False)
            assert len(view.snapshot(at(31.0)).nodes[0].gpus) == 3
            await bus.publish(Feed.LOG, [a_log(a_record(31.0, 100.0))])
            await reached(lambda: view.snapshot(at(31.0)).service.finished == 301)
            stop.set()
            await follower

    asyncio.run(scenario())


class _Flaky(MemoryBus):
    away = False

    async def follow(self, *args, **kwargs):  # noqa: ANN002, ANN003, ANN202
        if self.away:
            raise BusUnavailableError("connection refused")
        return await super().follow(*args, **(kwargs | {"block_s": min(0.05, kwargs["block_s"])}))


def test_follow_into_says_that_the_server_is_away_and_comes_back() -> None:
    async def scenario() -> None:
        bus, view, stop = _Flaky("demo", lambda: at(0.0)), DeploymentView(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(follow_into(bus, view, stop))
            await reached(lambda: not view.snapshot(at(0.0)).trouble)
            bus.away = True
            await reached(lambda: view.snapshot(at(0.0)).trouble == "connection refused")
            bus.away = False
            await bus.publish(Feed.LOG, [a_log(a_record(0.0, 100.0))])
            await reached(lambda: view.snapshot(at(0.0)).outcomes["ok"] == 1)
            assert view.snapshot(at(0.0)).trouble == ""
            stop.set()

    asyncio.run(scenario())


async def reached(condition: Callable[[], bool]) -> None:
    async def check() -> bool:
        return condition()

    await eventually(check)


# --- terminal


def test_without_a_terminal_lines_come_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, stop.set)
        await LiveDashboard(ViewOptions(deployment="demo"), line_s=0.1).run(a_running_view, stop)

    asyncio.run(scenario())

    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 7 serving" in err.splitlines()[0]


_SCRIPT = """
import asyncio, fcntl, sys, termios
from cli.dashboard_live import LiveDashboard
from cli.dashboard_options import ViewOptions
from cli.output import tell
from clover.analysis.view import DeploymentView

# Keys only go to a process whose terminal it is.
fcntl.ioctl(0, termios.TIOCSCTTY, 0)

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(tell, "said meanwhile")
    if "crash" in sys.argv:
        asyncio.get_running_loop().call_later(1.0, lambda: setattr(LiveDashboard, "_frame", None))
    kept, clock = DeploymentView(), None
    if "running" in sys.argv:
        sys.path.insert(0, "tests")
        from view_messages import a_running_view, at
        clock = lambda: at(5.5)
        kept = a_running_view(gpus=60, seconds=5)
    await LiveDashboard(ViewOptions(deployment="demo"), line_s=0.2, now_ms=clock).run(lambda: kept, stop)
    print("stopped", stop.is_set())

asyncio.run(main())
"""


class _Terminal:
    """A script on a pseudo-terminal; what it writes is read all the time, as a terminal does."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._master, self._slave = pty.openpty()
        self.before = termios.tcgetattr(self._slave)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **environment},
        )

    def until(self, text: bytes) -> None:
        ends_s = time.monotonic() + 20.0
        while text not in self.output:
            assert time.monotonic() < ends_s, self.output
            if select.select([self._master], [], [], 0.1)[0]:
                self.output += os.read(self._master, 65536)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def after(self) -> list:
        """Wait for the end of the script and return the terminal's settings."""
        ends_s = time.monotonic() + 20.0
        while self.process.poll() is None or select.select([self._master], [], [], 0.05)[0]:
            assert time.monotonic() < ends_s, self.output
            if select.select([self._master], [], [], 0.05)[0]:
                self.output += os.read(self._master, 65536)
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


LEAVE = b"\x1b[?1049l"


def test_q_quits_and_the_terminal_is_as_before() -> None:
    terminal = _Terminal()
    try:
        terminal.until(b"waiting for a plan")
        assert not termios.tcgetattr(terminal._slave)[3] & termios.ICANON
        terminal.press(b"xq")
        assert terminal.after() == terminal.before
        assert terminal.process.returncode == 0
        screen, _, rest = terminal.output.partition(LEAVE)
        assert b"said meanwhile" not in screen
        assert b"said meanwhile" in rest
        assert b"stopped True" in rest
    finally:
        terminal.close()


def test_a_termination_leaves_the_screen() -> None:
    terminal = _Terminal()
    try:
        terminal.until(b"waiting for a plan")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.after() == terminal.before
        assert LEAVE in terminal.output
        assert b"stopped True" in terminal.output
    finally:
        terminal.close()


def test_an_error_leaves_the_screen_before_it_is_told() -> None:
    terminal = _Terminal("crash")
    try:
        assert terminal.after() == terminal.before
        assert terminal.process.returncode == 1
        assert b"TypeError" in terminal.output.partition(LEAVE)[2]
    finally:
        terminal.close()


def test_no_color_is_honoured_on_a_terminal() -> None:
    terminal = _Terminal(NO_COLOR="1")
    try:
        terminal.until(b"q quit")
        terminal.press(b"q")
        terminal.after()
        assert b"38;" not in terminal.output
        assert b"\x1b[31m" not in terminal.output
    finally:
        terminal.close()


def test_a_dumb_terminal_gets_lines() -> None:
    terminal = _Terminal(TERM="dumb")
    try:
        terminal.until(b"no requests yet")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.after()
        assert b"\x1b[?1049h" not in terminal.output
    finally:
        terminal.close()


def test_keys_change_pages_and_a_new_size_is_drawn_at_once() -> None:
    terminal = _Terminal("running")
    try:
        terminal.until(b"decision 3 on intensity")
        for key, words in ((b"2", b"GPUs by node"), (b"3", b"predicted"), (b"4", b"how requests ended"),
                           (b"5", b"events and log lines"), (b"?", b"this help"), (b"\t", b"gCO2e/kWh")):  # fmt: skip
            terminal.output = b""
            terminal.press(key)
            terminal.until(words)
        terminal.output = b""
        terminal.resize(120, 40)
        terminal.until(b"GPU power")
        assert b"\x1b[40;1H" in terminal.output
        terminal.press(b"2/failed\r")
        terminal.until(b"/failed ")
        terminal.press(b"q")
        assert terminal.after() == terminal.before
    finally:
        terminal.close()


def test_suspended_it_gives_the_terminal_back_and_takes_it_again() -> None:
    terminal = _Terminal("running")
    try:
        terminal.until(b"decision 3 on intensity")
        terminal.press(b"\x1a")
        terminal.until(LEAVE)
        assert os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT) is not None
        assert termios.tcgetattr(terminal._slave) == terminal.before
        terminal.output = b""
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(b"decision 3 on intensity")
        assert b"\x1b[?1049h" in terminal.output
        terminal.press(b"q")
        assert terminal.after() == terminal.before
        assert terminal.process.returncode == 0
    finally:
        terminal.close()


def test_an_unchanged_picture_is_not_written_again() -> None:
    from rich.console import Console  # noqa: PLC0415

    from cli.dashboard import view  # noqa: PLC0415
    from cli.dashboard_screen import Screen  # noqa: PLC0415

    written = io.StringIO()
    screen = Screen(Console(file=written, width=80, height=24, force_terminal=True, no_color=True))
    snapshot = a_running_view(seconds=3).snapshot(at(3.5))
    assert screen.draw(view(snapshot, 80, 24))
    assert not screen.draw(view(snapshot, 80, 24))
    before = written.tell()
    assert screen.draw(view(dataclasses.replace(snapshot, at_ms=at(4.5)), 80, 24))
    # Only the header, which has the clock.
    assert written.tell() - before < 300
