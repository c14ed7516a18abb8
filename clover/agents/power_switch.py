"""Switches GPUs off and on with commands of the operator: only they know what is behind a power rail or a BMC.

A command is run without a shell, once per GPU, with the GPU named in its environment: CLOVER_NODE, CLOVER_GPU_INDEX and
CLOVER_GPU_UUID. It has until its time limit to succeed, and is done when it has ended itself: what it leaves running is
its own affair, and what it wrote last is told if it failed. One that is not done in time, or in the middle of which the
agent is stopped, is ended with everything it has started (its process group).

Without commands nothing is run, which is right for simulated GPUs alone: whoever plans with `off` on real ones is asked
for them (`require_hooks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clover.errors import ConfigurationError, NodeError

#: Longest that a command may take unless told otherwise, s: a host's firmware takes minutes.
DEFAULT_LIMIT_S = 300.0

#: What is killed is waited for this long: a process that hangs in the kernel shall hold nobody up.
KILLED_WITHIN_S = 5.0

_TOLD_CHARACTERS = 300
_READ_BYTES = 65536


class _Board(Protocol):
    @property
    def index(self) -> int: ...

    @property
    def uuid(self) -> str: ...


class PowerCommandError(NodeError):
    """A power command failed or took too long; the GPU's state is what the command left."""


@dataclass(slots=True)
class PowerSwitch:
    """The power commands of one node.

    Attributes:
        node: Name of the node.
        off, on: The commands, empty for none.
        limit_s: Longest that one may take.
        on_took_s: Longest that switching a GPU on has taken so far; None before the first time.
    """

    node: str
    off: Sequence[str] = ()
    on: Sequence[str] = ()
    limit_s: float = DEFAULT_LIMIT_S
    on_took_s: float | None = field(default=None, init=False)

    @property
    def on_takes_s(self) -> float:
        """How long switching a GPU on is to be expected to take: as long as it has, the limit at first."""
        return (self.limit_s if self.on_took_s is None else self.on_took_s) if self.on else 0.0

    def may_take_s(self, *, on: bool) -> float:
        """Return the longest that a switch may take; 0 if there is nothing to run."""
        return self.limit_s if (self.on if on else self.off) else 0.0

    async def switch(self, gpu: _Board, *, on: bool) -> None:
        """Switch a GPU and wait until its command is done.

        Raises:
            PowerCommandError: It could not be started, ended with another code than 0, or took too long.
        """
        command = self.on if on else self.off
        if not command:
            return
        name = f"{'power_on' if on else 'power_off'} of {self.node}/gpu{gpu.index} ({shlex.join(command)})"
        environment = {
            **os.environ,
            "CLOVER_NODE": self.node,
            "CLOVER_GPU_INDEX": str(gpu.index),
            "CLOVER_GPU_UUID": gpu.uuid,
        }
        begun_s = asyncio.get_running_loop().time()
        with _last_words() as (words, write_to):
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_to,
                    stderr=write_to,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise PowerCommandError(f"{name} cannot be started: {error.strerror or error}") from error
            await self._finish(process, name, words)
        if on:
            self.on_took_s = max(self.on_took_s or 0.0, asyncio.get_running_loop().time() - begun_s)

    async def _finish(self, process: asyncio.subprocess.Process, name: str, words: _Words) -> None:
        try:
            async with asyncio.timeout(self.limit_s):
                # Nothing here waits for the end of what it writes: others may hold that open for ever.
                code = await process.wait()
        except TimeoutError:
            raise PowerCommandError(f"{name} was not done within {self.limit_s:g} s and was ended") from None
        finally:
            if process.returncode is None:
                await _end_group(process)
        if code != 0:
            words.read()
            raise PowerCommandError(f"{name} ended with code {code}{': ' if words.text else ''}{words.text}")


class _Words:
    """The last of what a command writes to a pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._last = b""

    @property
    def text(self) -> str:
        told = self._last.decode(errors="replace").strip()
        return told[-_TOLD_CHARACTERS:].replace("\n", " | ")

    def read(self) -> None:
        """Read once what is there, so that nobody is stopped by a full pipe."""
        with contextlib.suppress(BlockingIOError):
            self._last = (self._last + os.read(self._pipe, _READ_BYTES))[-4 * _TOLD_CHARACTERS :]


@contextlib.contextmanager
def _last_words() -> Iterator[tuple[_Words, int]]:
    """Give a reader and the end of a pipe to write to."""
    loop = asyncio.get_running_loop()
    read_from, write_to = os.pipe()
    try:
        os.set_blocking(read_from, False)
        words = _Words(read_from)
        loop.add_reader(read_from, words.read)
        yield words, write_to
    finally:
        loop.remove_reader(read_from)
        os.close(read_from)
        os.close(write_to)


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """Kill a process and all that it has started in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_WITHIN_S):
            await process.wait()


def power_switch(node: str, *, off: str, on: str, limit_s: float = DEFAULT_LIMIT_S) -> PowerSwitch:
    """Build a switch from two command lines, split as a shell would.

    Raises:
        ConfigurationError: Only one of them is given, one cannot be split, or the limit is not above 0.
    """
    if bool(off.strip()) != bool(on.strip()):
        raise ConfigurationError("power_off and power_on: expected both commands or neither")
    if not limit_s > 0.0:
        raise ConfigurationError(f"power_limit = {limit_s:g}: expected seconds above 0")
    try:
        return PowerSwitch(node, tuple(shlex.split(off)), tuple(shlex.split(on)), limit_s)
    except ValueError as error:
        raise ConfigurationError(f"power_off = {off!r}, power_on = {on!r}: {error}") from error


def require_hooks(backend: str, parking: str, *, off: str) -> None:
    """Refuse a plan that switches real GPUs off when nobody has said how.

    Raises:
        ConfigurationError: Parking is `off` on a real backend and there is no command.
    """
    if parking == "off" and backend == "nvml" and not off.strip():
        raise ConfigurationError(
            "--parking off: expected a command that switches a GPU off on this backend",
            hint="give --power-off and --power-on (clover.toml: power_off, power_on), or --parking parked",
        )
