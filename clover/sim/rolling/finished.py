"""What came of the requests of a change under load, by the records of finished requests on the bus."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from clover.bus.messages import RequestLog, RequestRecord
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core.outcome import ProducerOutcome
from clover.errors import BusUnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One change: when the first command was given and when the last GPU served.

    Attributes:
        way: How it was changed.
        to: The layout that it was changed to.
        from_ms, until_ms: Wall time.
        mig_changes: GPU instances created and destroyed.
    """

    way: str
    to: str
    from_ms: float
    until_ms: float
    mig_changes: int


class FinishedRequests:
    """Reads the records of finished requests; `figures` counts those that became due in a window."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._records: list[RequestRecord] = []
        self._cursor = "0"

    async def follow(self) -> None:
        """Read what is new, until cancelled."""
        while True:
            with contextlib.suppress(BusUnavailableError):
                await self._read_some(1.0)

    async def read_all(self) -> None:
        """Read what there is."""
        while await self._read_some(0.0):
            pass

    async def _read_some(self, block_s: float) -> int:
        entries = await self._bus.follow({Feed.LOG: self._cursor}, block_s=block_s)
        for entry in entries:
            self._cursor = entry.id
            if isinstance(entry.message, RequestLog):
                self._records += entry.message.records
        return len(entries)

    def figures(self, window: Window) -> dict[str, Any]:
        """Return what came of the requests that became due in a window; p95 counts the unanswered as infinite."""
        inside = [one for one in self._records if window.from_ms <= one.due_ms <= window.until_ms]
        ended = {outcome.value: sum(one.outcome is outcome for one in inside) for outcome in ProducerOutcome}
        waits = sorted(one.latency_ms if one.latency_ms is not None else float("inf") for one in inside)
        p95 = waits[min(len(waits) - 1, int(0.95 * len(waits)))] if waits else float("inf")
        return {
            "way": window.way,
            "to": window.to,
            "seconds": round((window.until_ms - window.from_ms) / 1e3, 2),
            "requests": {"sent": len(inside), **ended},
            "late_pct": round(100.0 * (1.0 - ended["ok"] / len(inside)), 3) if inside else None,
            "p95_ms": round(p95, 1) if p95 < float("inf") else None,
            "mig_changes": window.mig_changes,
        }
