"""What feeds the dashboard, and what its driver leaves on a terminal."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import signal
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from support import eventually
from terminal import LEAVE, TAKE, Terminal
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
from clover.bus.values import Feed
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
import asyncio, fcntl, os, sys, termios
from cli.dashboard_live import LiveDashboard
from cli.dashboard_options import ViewOptions
from cli.output import tell
from clover.analysis.view import DeploymentView

# Keys only go to a process whose terminal it is.
if "shell" not in sys.argv:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if "background" in sys.argv and os.fork():
    # The parent is the shell, and keeps the terminal.
    os.wait()
    sys.exit()
elif "background" in sys.argv:
    os.setpgid(0, 0)

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


def on_terminal(*arguments: str, shell: bool = False, term: str = "xterm-256color", **environment: str) -> Terminal:
    words = [*arguments, *(["shell"] if shell else [])]
    return Terminal(
        [sys.executable, "-c", _SCRIPT, *words], shell=shell, term=term, environment={**os.environ, **environment}
    )


def test_q_quits_and_the_terminal_is_as_before() -> None:
    with on_terminal() as terminal:
        terminal.until(b"waiting for a plan")
        assert not terminal.settings()[3] & termios.ICANON
        terminal.press(b"xq")
        assert terminal.after() == terminal.before
        assert terminal.process.returncode == 0
        screen, _, rest = terminal.output.partition(LEAVE)
        assert b"said meanwhile" not in screen
        assert b"said meanwhile" in rest
        assert b"stopped True" in rest


def test_a_termination_leaves_the_screen() -> None:
    with on_terminal() as terminal:
        terminal.until(b"waiting for a plan")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.after() == terminal.before
        assert LEAVE in terminal.output
        assert b"stopped True" in terminal.output


def test_an_error_leaves_the_screen_before_it_is_told() -> None:
    with on_terminal("crash") as terminal:
        assert terminal.after() == terminal.before
        assert terminal.process.returncode == 1
        assert b"TypeError" in terminal.output.partition(LEAVE)[2]


def test_no_color_is_honoured_on_a_terminal() -> None:
    with on_terminal(NO_COLOR="1") as terminal:
        terminal.until(b"q quit")
        terminal.press(b"q")
        terminal.after()
        assert b"38;" not in terminal.output
        assert b"\x1b[31m" not in terminal.output


def test_a_job_in_the_background_gets_lines() -> None:
    """As `clover up &` in a shell: it must not draw over what is typed there."""
    with on_terminal("background") as terminal:
        terminal.until(b"no requests yet")
        assert TAKE not in terminal.output


def test_a_dumb_terminal_gets_lines() -> None:
    with on_terminal(term="dumb") as terminal:
        terminal.until(b"no requests yet")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.after()
        assert b"\x1b[?1049h" not in terminal.output


def test_keys_change_pages_and_a_new_size_is_drawn_at_once() -> None:
    # Some shells export the size that the terminal had at first.
    with on_terminal("running", COLUMNS="80", LINES="24") as terminal:
        terminal.until(b"decision 3 on intensity")
        for key, words in ((b"2", b"GPUs by node"), (b"3", b"predicted"), (b"4", b"how requests ended"),
                           (b"5", b"events and log lines"), (b"?", b"this help"), (b"\t", b"gCO2e/kWh")):  # fmt: skip
            terminal.output = b""
            terminal.press(key)
            terminal.until(words)
        terminal.output = b""
        terminal.resize(120, 40)
        terminal.until(b"\x1b[40;1H")
        terminal.press(b"2/failed\r")
        terminal.until(b"/failed ")
        terminal.press(b"q")
        assert terminal.after() == terminal.before


def test_suspended_it_gives_the_terminal_back_and_takes_it_again() -> None:
    with on_terminal("running", shell=True) as terminal:
        terminal.until(b"decision 3 on intensity")
        terminal.press(b"\x1a")
        terminal.until(b"job stopped")
        assert LEAVE in terminal.output
        assert terminal.settings() == terminal.before
        terminal.output = b""
        terminal.press(b"fg\n")
        terminal.until(b"decision 3 on intensity")
        assert b"\x1b[?1049h" in terminal.output
        terminal.press(b"q")
        assert terminal.after() == terminal.before
        assert terminal.process.returncode == 0


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
