"""What keys of the dashboard may do beyond looking: record what comes, and with `--control` change the deployment.

A change is made by the command that makes it on the command line (`clover plan pause`, `pin`, ...), so that both do the
same and say the same.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.dashboard_record import Recorder
    from clover.bus.port import Bus

#: A command that changes something has this long.
_WITHIN_S = 20.0


class DashboardExtras:
    """Recording, and control where it was asked for.

    Args:
        deployment: Of what is shown.
        bus: Gives the bus of what is watched at present; None where nothing may be changed.
        url: Gives the address of its server.
    """

    def __init__(
        self,
        deployment: str,
        bus: Callable[[], Bus] | None = None,
        url: Callable[[], str | None] = lambda: None,
    ) -> None:
        from cli.dashboard_record import Recorder  # noqa: PLC0415 - keeps --help fast

        self.tap: Recorder = Recorder(deployment, Path.cwd())
        self._deployment = deployment
        self._bus = bus
        self._url = url

    @property
    def recording(self) -> bool:
        """Whether messages are being recorded."""
        return self.tap.recording

    def record(self) -> str:
        """Begin or end recording; return what to say."""
        return self.tap.toggle()

    async def control(self, what: str) -> str:
        """Change the deployment as confirmed (`pause`, `pin`, `park n1/3`); return what to say."""
        from clover.errors import CloverError  # noqa: PLC0415 - keeps --help fast

        if self._bus is None:
            return "only with clover dashboard --control"
        try:
            override = await self._bus().override()
        except CloverError as error:
            return f"nothing was changed: {error}"
        return await self._run(command_for(what, override))

    async def _run(self, words: Sequence[str]) -> str:
        """Run a command on the same deployment; return its first line, or why it could not."""
        url = self._url()
        environment = {**os.environ, "CLOVER_DEPLOYMENT": self._deployment, **({"CLOVER_REDIS": url} if url else {})}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cli", *words),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_WITHIN_S):
                told, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return f"clover {' '.join(words)}: no answer within {_WITHIN_S:g} s"
        lines = told.decode(errors="replace").splitlines()
        return f"clover {' '.join(words)}: {lines[0] if lines else 'done'}"


def command_for(what: str, override: Any) -> list[str]:
    """Return the words of the command that does what a key asks for, or takes it back where it is in force.

    Args:
        what: `pause`, `pin`, or `park` and a GPU as `n1/3` or `n1/gpu3`.
        override: What people have told the controller so far (`paused`, `pins`); None if nothing.
    """
    pins = {f"{pin.node}/gpu{pin.gpu.index}" for pin in getattr(override, "pins", ())}
    verb, _, gpu = what.partition(" ")
    if verb == "pause":
        return ["plan", "resume"] if getattr(override, "paused", False) else ["plan", "pause", "--reason", "dashboard"]
    if verb == "pin":
        return ["plan", "unpin"] if pins else ["plan", "pin", "--reason", "dashboard"]
    node, _, index = gpu.partition("/")
    name = f"{node}/gpu{index.removeprefix('gpu')}"
    return ["plan", "unpin", name] if name in pins else ["plan", "pin", name, "--as", "parked", "--reason", "dashboard"]
