"""The process that draws the dashboard of `clover up`: `python -m cli.dashboard_child DEPLOYMENT FEED=CURSOR...`.

Not for people: the server and the state folder come from the environment. It gives the terminal back and ends when it
is told to, when `up` dies, and with the exit code `QUIT` on the key q.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from cli.dashboard_control import DashboardExtras
from cli.dashboard_live import LiveDashboard
from cli.dashboard_options import ViewOptions
from cli.following import follow_into
from cli.output import tell
from cli.up_dashboard import QUIT
from clover.agents.runtime import PARENT_VARIABLE
from clover.analysis.view import DeploymentView
from clover.bus.redis import connect
from clover.bus.values import Feed
from clover.parent import end_with_parent

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Draw until told to end; return the exit code."""
    # SIGTERM rather than the end at once: the terminal must be given back, also when a shell has taken it already.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent and (ask := end_with_parent(signal.SIGTERM, parent=int(parent))):
        ask()
    cursors = {Feed(name): cursor for name, _, cursor in (each.partition("=") for each in arguments[1:])}
    try:
        return asyncio.run(_show(arguments[0], cursors))
    except Exception as error:  # noqa: BLE001 - the last place before the user
        if os.environ.get("CLOVER_DEBUG"):
            traceback.print_exc()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        tell(f"clover: the dashboard failed: {type(error).__name__}: {error}")
        return 1


async def _show(deployment: str, cursors: dict[Feed, str]) -> int:
    stop, told = asyncio.Event(), asyncio.Event()

    def end() -> None:
        told.set()
        stop.set()

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, end)
    view, extras = DeploymentView(), DashboardExtras(deployment)
    bus = connect(os.environ["CLOVER_REDIS"], deployment, "dashboard")
    try:
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(follow_into(bus, view, stop, cursors=cursors, tap=extras.tap))
            await LiveDashboard(ViewOptions(deployment=deployment), extras=extras).run(lambda: view, stop)
            follower.cancel()
    finally:
        extras.tap.close()
        await bus.close()
    return 0 if told.is_set() else QUIT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
