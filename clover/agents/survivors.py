"""Remembers the worker processes of a node on disk, so that an agent that was killed can end what it left behind.

On Linux workers die with their agent anyway; this is for systems without that, and for the moment in between.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec

from clover.agents.deployment import process_started
from clover.serving.port import InstanceSpec, Servicer, Worker


class WorkerRecord:
    """The file of living workers of one node: pid and start time of each."""

    def __init__(self, folder: Path, node: str) -> None:
        self._path = folder / f"{node}.workers.json"
        self._workers: dict[int, str] = {}

    def add(self, pid: int) -> None:
        """Remember a worker."""
        self._workers = {
            known: started for known, started in self._workers.items() if process_started(known) == started
        }
        self._workers[pid] = process_started(pid)
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(self._workers))
        temporary.replace(self._path)

    def end_survivors(self) -> list[int]:
        """Kill the workers that an earlier agent of this node left alive; return their pids."""
        try:
            recorded = msgspec.json.decode(self._path.read_bytes(), type=dict[int, str])
        except (OSError, msgspec.DecodeError):
            return []
        ended: list[int] = []
        for pid, started in recorded.items():
            if started and process_started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    ended.append(pid)
        self._path.unlink(missing_ok=True)
        return ended


class RecordingServicer:
    """A servicer that records the processes of the one it wraps."""

    def __init__(self, inner: Servicer, record: WorkerRecord) -> None:
        self._inner = inner
        self._record = record

    @property
    def energy_source(self) -> str:
        """Source of the inner servicer's energy figures."""
        return self._inner.energy_source

    async def start(self, spec: InstanceSpec) -> Worker:
        """Start a worker and record its process."""
        worker = await self._inner.start(spec)
        if worker.pid is not None:
            self._record.add(worker.pid)
        return worker

    async def close(self) -> None:
        """Close the inner servicer."""
        await self._inner.close()
