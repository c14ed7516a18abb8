"""The lifetime of an agent process: signals, its parent, its server, its log."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from clover.agents.deployment import find_url
from clover.bus.messages import LogLine
from clover.bus.port import Bus
from clover.bus.redis import connect
from clover.bus.values import Feed
from clover.core.clock import Clock
from clover.errors import BusError, BusUnavailableError, ConfigurationError
from clover.parent import end_with_parent

_log = logging.getLogger("clover")

#: Set by a supervisor for its children: the end of their standard input is the end of their parent.
PARENT_VARIABLE = "CLOVER_CHILD_OF"

#: After its parent's death a child has this long to end by itself.
ORPHAN_GRACE_S = 3.0

_HELD_LINES = 1000


async def wait_for_bus(
    *, redis: str | None, state_folder: Path, deployment: str, client: str, wait_s: float, tell: Callable[[str], None]
) -> Bus:
    """Find the deployment's server and connect to it, waiting until it is there.

    Args:
        redis: URL, or None to look in the environment and the state file.
        state_folder: Where state files are.
        deployment: Name.
        client: Name of this client on the server.
        wait_s: Give up after this long; 0 tries once.
        tell: Says what is being waited for.

    Raises:
        BusError: Nothing answered in time; the hint says how to start a server.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    told = ""
    while True:
        url = find_url(redis, state_folder, deployment)
        reason = f"no server is known for deployment {deployment!r}"
        if url is not None:
            bus = connect(url, deployment, client)
            try:
                await bus.ping()
            except BusUnavailableError as error:
                await bus.close()
                reason = str(error)
            else:
                return bus
        if loop.time() >= until:
            raise BusError(reason, hint="start one with `clover server` or `clover up`, or give --redis URL")
        if reason != told:
            tell(f"waiting for the server: {reason}")
            told = reason
        await asyncio.sleep(min(0.2, max(0.0, until - loop.time())))


async def run_agent(
    *,
    bus: Bus,
    clock: Clock,
    source: str,
    work: Callable[[asyncio.Event], Awaitable[None]],
) -> None:
    """Run an agent until it ends or is asked to stop (SIGINT, SIGTERM, or the death of its parent).

    The first signal sets the stop event, so that the agent drains; the second cancels.
    """
    stop = asyncio.Event()
    handler = _BusLogHandler(source, clock)
    logging.getLogger().addHandler(handler)
    try:
        async with asyncio.TaskGroup() as group:
            agent = group.create_task(_finish(work, stop))
            _install_signals(stop, agent)
            helpers = [group.create_task(handler.publish(bus)), group.create_task(_watch_parent(stop))]
            await asyncio.wait({agent})
            for helper in helpers:
                helper.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors
    finally:
        logging.getLogger().removeHandler(handler)
        await bus.close()


async def _finish(work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
    await work(stop)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; for what has no agent to drain."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _install_signals(stop: asyncio.Event, agent: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            agent.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)


# --- parent ---------------------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends (Linux); one that is an orphan already ends now."""
    parent = os.environ.get(PARENT_VARIABLE)
    if not parent:
        return
    if ask := end_with_parent(signal.SIGKILL, parent=int(parent)):
        ask()


async def _watch_parent(stop: asyncio.Event) -> None:
    """Stop at the end of standard input, which a supervisor keeps open as long as it lives."""
    if PARENT_VARIABLE not in os.environ:
        await asyncio.Event().wait()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stop.set()
    await asyncio.sleep(ORPHAN_GRACE_S)
    os._exit(1)


# --- log ------------------------------------------------------------------------------------------------------------


class _BusLogHandler(logging.Handler):
    """Sends log lines from warning up to the log stream; while the server is away they are held."""

    def __init__(self, source: str, clock: Clock) -> None:
        super().__init__(level=logging.WARNING)
        self._source = source
        self._clock = clock
        self._lines: deque[LogLine] = deque(maxlen=_HELD_LINES)
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        level = "critical" if record.levelno >= logging.CRITICAL else record.levelname.lower()
        if level not in {"warning", "error", "critical"}:
            return
        self._lines.append(
            LogLine(at_ms=self._clock.now_ms(), level=level, source=self._source, text=record.getMessage())  # pyright: ignore[reportArgumentType]
        )
        self._news.set()

    async def publish(self, bus: Bus) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            lines = list(self._lines)
            self._lines.clear()
            try:
                await bus.publish(Feed.LOG, lines)
            except BusUnavailableError:
                # If there are too many, the newest are kept.
                self._lines = deque([*lines, *self._lines], maxlen=_HELD_LINES)
                await asyncio.sleep(1.0)
                self._news.set()


def check_state_folder(folder: Path) -> Path:
    """Return the folder, made if need be; raises ConfigurationError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            f"state folder {folder}: {error.strerror}", hint="choose one with --state-dir"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"state folder {folder}: not writable", hint="choose one with --state-dir")
    return folder
