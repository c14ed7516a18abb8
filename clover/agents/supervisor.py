"""Starts the processes of a deployment on one host, starts again what dies, and ends them all in the right order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clover.agents.lifetime import happens_within
from clover.agents.runtime import PARENT_VARIABLE
from clover.errors import CloverError

#: Pauses before a process is started again: first, and at most.
RESTART_FIRST_S, RESTART_MOST_S = 0.5, 10.0

#: After living this long a process's next death counts as its first.
HEALTHY_AFTER_S = 30.0

#: Exit codes that starting again cannot mend: wrong usage, wrong configuration.
FATAL_CODES = frozenset({2, 3})

#: A child that fails this often without living for long will not be mended by another start.
GIVE_UP_AFTER = 5

#: How long a child may take to end after it was asked to, before it is killed.
STOP_GRACE_S = 45.0

_TOLD_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One process to keep alive.

    Attributes:
        name: For people and for its log file, such as `node-n1`.
        arguments: Gives the arguments of the `clover` command, asked for at each start.
        once: Ends by itself when its work is done (exit code 0); it is not started again then.
    """

    name: str
    arguments: Callable[[], Sequence[str]]
    once: bool = False


class ChildFailedError(CloverError):
    """A child refused to start; its own message says why."""

    def __init__(self, name: str, code: int, told: str) -> None:
        super().__init__(f"{name}: {told or f'ended with exit code {code}'}")
        self.exit_code = code


class Supervisor:
    """Keeps child processes alive.

    Args:
        environment: Added to the children's environment (the server's URL goes here, never into arguments).
        log_folder: Gets one log file per child.
        tell: Takes (kind, child, reason) of deaths and restarts.
    """

    def __init__(
        self, *, environment: Mapping[str, str], log_folder: Path, tell: Callable[[str, str, str], None]
    ) -> None:
        self._environment = dict(environment)
        self._log_folder = log_folder
        self._tell = tell
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._ending: set[str] = set()
        self._ended: dict[str, asyncio.Event] = {}
        self._stops: dict[str, asyncio.Event] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the living children by name."""
        return {name: process.pid for name, process in self._children.items() if process.returncode is None}

    def ended(self, name: str) -> asyncio.Event:
        """Return an event that is set when a child has ended for good."""
        return self._ended.setdefault(name, asyncio.Event())

    async def keep(self, spec: ChildSpec) -> None:
        """Run a child, again and again, until it is ended by `end`, or by itself if it is to run once.

        Raises:
            ChildFailedError: It ended with an exit code that a restart cannot mend.
        """
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        # Whoever ends it from now on waits for it.
        self.ended(spec.name)
        try:
            while spec.name not in self._ending:
                began = loop.time()
                code = await self._run_once(spec)
                if spec.name in self._ending or (spec.once and code == 0):
                    return
                told = self._last_lines(spec.name)
                quick_deaths = 1 if loop.time() - began > HEALTHY_AFTER_S else quick_deaths + 1
                if code in FATAL_CODES or (quick_deaths >= GIVE_UP_AFTER and code > 0):
                    raise ChildFailedError(spec.name, code, told)
                pause_s = min(RESTART_MOST_S, RESTART_FIRST_S * 2.0 ** (quick_deaths - 1))
                self._tell("process.died", spec.name, f"{_how_it_ended(code)}; starting again in {pause_s:g} s")
                await happens_within(self._stop_event(spec.name), pause_s)
        finally:
            self.ended(spec.name).set()

    async def end(self, names: Sequence[str], *, grace_s: float = STOP_GRACE_S) -> None:
        """Ask children to end and wait for them; kill those that take longer than the grace."""
        for name in names:
            self._ending.add(name)
            self._stop_event(name).set()
            self._signal(name, signal.SIGTERM)
        waits = [happens_within(self.ended(name), grace_s) for name in names if name in self._ended]
        if waits and not all(await asyncio.gather(*waits)):
            for name in names:
                self._signal(name, signal.SIGKILL)

    def kill_all(self) -> None:
        """End every child at once."""
        for name in list(self._children):
            self._ending.add(name)
            self._stop_event(name).set()
            self._signal(name, signal.SIGKILL)

    async def _run_once(self, spec: ChildSpec) -> int:
        log = (self._log_folder / f"{spec.name}.log").open("ab")
        with log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cli",
                *spec.arguments(),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment, PARENT_VARIABLE: str(os.getpid())},
                # Ctrl-C in the terminal is for the supervisor alone, which then ends its children in order.
                start_new_session=True,
            )
        self._children[spec.name] = process
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._children.get(name)
        if process is not None and process.returncode is None:
            process.send_signal(number)

    def _stop_event(self, name: str) -> asyncio.Event:
        return self._stops.setdefault(name, asyncio.Event())

    def _last_lines(self, name: str) -> str:
        text = (self._log_folder / f"{name}.log").read_text(errors="replace")
        return " | ".join(text.strip().splitlines()[-_TOLD_LINES:])


def _how_it_ended(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
