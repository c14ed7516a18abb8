"""What keys of the dashboard may do beyond looking: record what comes, and with `--control` change the deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.dashboard_record import Recorder
    from clover.bus.port import Bus


class DashboardExtras:
    """Recording, and control where a bus is given.

    Args:
        deployment: Of what is shown.
        bus: Gives the bus of what is watched at present; None where nothing may be changed.
    """

    def __init__(self, deployment: str, bus: Callable[[], Bus] | None = None) -> None:
        from cli.dashboard_record import Recorder  # noqa: PLC0415 - keeps --help fast

        self.tap: Recorder = Recorder(deployment, Path.cwd())
        self._bus = bus

    @property
    def recording(self) -> bool:
        """Whether messages are being recorded."""
        return self.tap.recording

    def record(self) -> str:
        """Begin or end recording; return what to say."""
        return self.tap.toggle()

    async def control(self, what: str) -> str:
        """Change the deployment as confirmed; return what to say."""
        return f"{what}: only with clover dashboard --control" if self._bus is None else f"{what}: not built"
