"""The dashboard of `clover up`: drawn by a process of its own on the same terminal, so that a picture stops nothing.

That process is in the process group of `up`, so keys, Ctrl-C and Ctrl-Z reach it as they reach `up`. Its end says what
was meant: `QUIT` is the key q; anything else, while nobody stops `up`, was a crash, after which lines follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from cli.dashboard_live import LiveDashboard, can_draw
from cli.dashboard_options import ViewOptions
from cli.dashboard_screen import LEAVE, held_talk, owns_input
from cli.output import tell
from clover.agents.runtime import PARENT_VARIABLE

if TYPE_CHECKING:
    from clover.analysis.view import DeploymentView
    from clover.bus.values import Feed

#: Exit code of the drawing process after the key q.
QUIT = 75
#: How long it may take to give the terminal back before it is killed.
_GRACE_S = 5.0
#: How long it may take to give the terminal back before `up` is suspended all the same.
_SUSPEND_S = 2.0


class UpDashboard:
    """Shows a deployment while `up` runs it.

    Args:
        deployment: Its name.
        environment: Of the drawing process, added to ours: where the server is.
        cursors: Where the run begins in each feed, so that what the server holds of earlier ones is not counted.
        show: False for lines even on a terminal.
    """

    def __init__(
        self, deployment: str, *, environment: Mapping[str, str], cursors: Mapping[Feed, str], show: bool
    ) -> None:
        self._deployment = deployment
        self._environment = {**os.environ, **environment, PARENT_VARIABLE: str(os.getpid())}
        self._cursors = dict(cursors)
        self._show = show and can_draw()
        #: Whether pictures are on the terminal, so that nothing else should be said there.
        self.drawing = self._show

    async def run(self, view: Callable[[], DeploymentView], stop: asyncio.Event) -> None:
        """Show until `stop` is set; the key q sets it.

        Args:
            view: Gives what lines tell of, where nothing is drawn.
            stop: Ends it.
        """
        if self._show:
            code = await self._draw(stop)
            self.drawing = False
            if code == QUIT:
                stop.set()
            if stop.is_set():
                return
            tell(f"the dashboard ended ({_how(code)}) and the deployment goes on; clover dashboard shows it again")
        await LiveDashboard(ViewOptions(deployment=self._deployment), show=False).run(view, stop)

    async def _draw(self, stop: asyncio.Event) -> int:
        """Run the drawing process until it ends, or end it when `stop` is set; return its exit code."""
        with _terminal_kept() as give_back, held_talk():
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli.dashboard_child", self._deployment),
                *(f"{feed.value}={cursor}" for feed, cursor in self._cursors.items()),
                env=self._environment,
            )
            try:
                with _suspended_together(process.pid):
                    await _first_end(process, stop)
            finally:
                await _ended(process)
                if process.returncode not in {0, QUIT}:
                    give_back()
        return process.returncode or 0


async def _first_end(process: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(stop.wait()), group.create_task(process.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, and kill it if it takes too long."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.contextmanager
def _terminal_kept() -> Iterator[Callable[[], None]]:
    """Remember how the terminal is; yield what makes it so again after a process that could not do that itself."""
    before = termios.tcgetattr(sys.stdin.fileno()) if owns_input() else None

    def give_back() -> None:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        if before is not None and owns_input():
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)

    yield give_back


@contextlib.contextmanager
def _suspended_together(pid: int) -> Iterator[None]:
    """Let Ctrl-Z suspend us only when the drawing process has given the terminal back and is suspended itself."""
    loop = asyncio.get_running_loop()
    ahead: set[asyncio.Task[None]] = set()

    def suspend() -> None:
        task = loop.create_task(suspend_after())
        ahead.add(task)
        task.add_done_callback(ahead.discard)

    async def suspend_after() -> None:
        await _stopped_within(pid, _SUSPEND_S)
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, suspend)

    loop.add_signal_handler(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)
        for task in ahead:
            task.cancel()


async def _stopped_within(pid: int, seconds: float) -> None:
    """Wait until a child is suspended (or has ended), at most so long."""
    how = os.WSTOPPED | os.WEXITED | os.WNOWAIT
    with contextlib.suppress(TimeoutError, ChildProcessError):
        await asyncio.wait_for(asyncio.to_thread(os.waitid, os.P_PID, pid, how), seconds)


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
