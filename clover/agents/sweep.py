"""A sweep over configurations that can be broken off and taken up again: every measurement is on disk at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from clover.core.configuration import GpuConfiguration
from clover.core.profiling import CellMeasurement
from clover.errors import ConfigurationError


class SweepHead(msgspec.Struct, frozen=True, kw_only=True):
    """What all measurements of one sweep have in common; a file of another head is not added to."""

    application: str
    backend: str
    board: str
    gpus: int
    weights: str
    requests: int
    warm_up: int
    host: str
    think_s: float = 0.0
    batch_size: int = 1


class SweepFile:
    """Measurements as JSON lines, the head first.

    Args:
        path: Where; made if it is not there.
        head: What is going to be measured.

    Raises:
        ConfigurationError: The file is of another sweep, or cannot be read or written.
    """

    def __init__(self, path: Path, head: SweepHead) -> None:
        self._path = path
        self.cells: list[CellMeasurement] = []
        try:
            if path.exists():
                self._read(head)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(msgspec.json.encode(head) + b"\n")
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror or error}") from error

    def add(self, cell: CellMeasurement) -> None:
        """Append a measurement."""
        self.cells.append(cell)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(cell) + b"\n")

    def has(self, cell: GpuConfiguration) -> bool:
        """Return whether a configuration has been measured; one that failed for another reason than memory has not."""
        return any(done.cell == str(cell) and done.outcome != "failed" for done in self.cells)

    def newest(self) -> list[CellMeasurement]:
        """Return the newest measurement of each configuration."""
        return list({cell.cell: cell for cell in self.cells}.values())

    def _read(self, head: SweepHead) -> None:
        first, *lines = self._path.read_bytes().splitlines() or [b""]
        try:
            found = msgspec.json.decode(first, type=SweepHead)
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"{self._path} is not the file of a sweep: {error}") from error
        if found != head:
            differing = [name for name in head.__struct_fields__ if getattr(found, name) != getattr(head, name)]
            raise ConfigurationError(
                f"{self._path} holds another sweep, it differs in {', '.join(differing)}",
                hint="delete it, or choose another --out",
            )
        for line in lines:
            try:
                self.cells.append(msgspec.json.decode(line, type=CellMeasurement))
            except msgspec.DecodeError:
                # The last line of a sweep that was killed in mid-write.
                continue


async def sweep(
    file: SweepFile,
    cells: Sequence[GpuConfiguration],
    measure: Callable[[GpuConfiguration], Awaitable[CellMeasurement]],
) -> AsyncIterator[CellMeasurement]:
    """Measure what the file does not hold yet; gives each measurement when it is on disk."""
    for cell in cells:
        if not file.has(cell):
            measured = await measure(cell)
            file.add(measured)
            yield measured
