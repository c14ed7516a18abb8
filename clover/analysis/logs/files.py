"""The files of an archive: rows are appended to JSON lines, and a manifest says how much of them holds.

A round of rows counts when the manifest that names its bytes is in place; whoever was killed in between begins again
from the last manifest, cuts off what it does not name, and reads those entries anew. So a kill loses no row and writes
none twice, as long as the server still has the entries (else the archive states the gap).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from clover.analysis.logs.manifest import FILE, Manifest, Segment, read_manifest
from clover.analysis.logs.tables import TABLES
from clover.errors import ConfigurationError

#: A file with so many rows or bytes is closed, and the next begun.
SEGMENT_ROWS, SEGMENT_BYTES = 250_000, 96 * 2**20
#: Files are forced to the disk this often: a crash of the whole host may take so much with it.
SYNC_S = 1.0

_LOCK = ".lock"


class ArchiveWriteError(ConfigurationError):
    """The archive cannot be written at present (disk full, no rights); what was written before holds."""


class ArchiveFiles:
    """An archive that this process alone writes; use it as a context manager.

    Args:
        folder: Of the archive; made if need be.
        deployment: What is archived; an archive of another one is refused.
        now_ms: Wall time.
    """

    def __init__(self, folder: Path, *, deployment: str, now_ms: float) -> None:
        self.folder = folder
        self._deployment = deployment
        self._now_ms = now_ms
        self._lock: int | None = None
        self._open: dict[str, int] = {}
        self._synced_s = time.monotonic()
        self.manifest = Manifest(deployment=deployment, began_ms=now_ms)

    def __enter__(self) -> ArchiveFiles:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigurationError(
                f"archive {self.folder}: {error.strerror or error}", hint="Choose a folder that can be written."
            ) from error
        try:
            self._take_lock(self._lock)
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (*self._open.values(), self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._open.clear()
        self._lock = None

    def _take_lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"archive {self.folder}: another process writes it") from error

    def _begin(self) -> None:
        found = read_manifest(self.folder)
        if found is not None:
            if found.deployment != self._deployment:
                raise ConfigurationError(
                    f"archive {self.folder} is of deployment {found.deployment!r}, not {self._deployment!r}",
                    hint="Choose another folder.",
                )
            self.manifest = found
        elif self._has_tables():
            raise ConfigurationError(
                f"archive {self.folder}: it has tables but no {FILE}", hint="Choose another folder."
            )
        self.manifest.state, self.manifest.caught_up = "open", False
        self._clear_leftovers()
        self.rollback()
        self.commit(self._now_ms, sync=True)

    def _has_tables(self) -> bool:
        return any(any((self.folder / name).glob("[0-9]*")) for name in TABLES)

    def _clear_leftovers(self) -> None:
        """Remove files of ours that the manifest does not name: half-made ones of a killed process."""
        for table in TABLES:
            named = {segment.file for segment in self.manifest.tables.get(table, [])}
            for path in (self.folder / table).glob("[0-9]*"):
                if path.name not in named:
                    path.unlink()

    # --- writing

    def append(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Append rows by table; they count with the next `commit`.

        Raises:
            ArchiveWriteError: They could not be written whole; call `rollback` before anything else.
        """
        try:
            for table, added in rows.items():
                if added:
                    self._append(table, added)
        except OSError as error:
            raise self._cannot(error) from error

    def _append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        segment = self._current(table)
        data = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        descriptor = self._descriptor(table, segment)
        written = 0
        while written < len(data):
            written += os.write(descriptor, memoryview(data)[written:])
        segment.first_id = segment.first_id or rows[0]["stream_id"]
        segment.last_id = rows[-1]["stream_id"]
        segment.rows += len(rows)
        segment.bytes += len(data)

    def _current(self, table: str) -> Segment:
        segments = self.manifest.tables.setdefault(table, [])
        if not segments or segments[-1].closed:
            segments.append(Segment(number=segments[-1].number + 1 if segments else 1))
        return segments[-1]

    def _descriptor(self, table: str, segment: Segment) -> int:
        if table not in self._open:
            folder = self.folder / table
            folder.mkdir(exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._open[table] = os.open(folder / segment.file, flags, 0o644)
        return self._open[table]

    def commit(self, now_ms: float, *, sync: bool = False) -> None:
        """Let everything count that was appended, by replacing the manifest.

        Raises:
            ArchiveWriteError: The manifest could not be written; the old one holds.
        """
        self.manifest.written_ms = now_ms
        sync = sync or time.monotonic() - self._synced_s >= SYNC_S
        try:
            if sync:
                self._synced_s = time.monotonic()
                for descriptor in self._open.values():
                    os.fsync(descriptor)
            write_whole(
                self.folder / FILE, msgspec.json.format(msgspec.json.encode(self.manifest), indent=1), sync=sync
            )
        except OSError as error:
            raise self._cannot(error) from error

    def rollback(self) -> None:
        """Go back to the last manifest: forget, and cut off, what was appended since."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self.manifest = read_manifest(self.folder) or self.manifest
        for table, segments in self.manifest.tables.items():
            for segment in segments:
                if segment.format == "jsonl":
                    self._cut(self.folder / table / segment.file, segment.bytes)

    def _cut(self, path: Path, length: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise ConfigurationError(
                f"archive {path}: {size} bytes, expected {length} as {FILE} says; rows are missing",
                hint="Archive into a new folder; `clover query` and `clover report` read what is whole.",
            )
        if size > length:
            os.truncate(path, length)

    # --- closing

    def full(self) -> Iterable[str]:
        """Return tables whose open file is large enough to be closed."""
        for table, segments in self.manifest.tables.items():
            last = segments[-1]
            if not last.closed and (last.rows >= SEGMENT_ROWS or last.bytes >= SEGMENT_BYTES):
                yield table

    def close_segment(self, table: str) -> None:
        """End a table's open file, if there is one; counts with the next `commit`."""
        segments = self.manifest.tables.get(table, [])
        if segments and not segments[-1].closed:
            segments[-1].closed = True
            descriptor = self._open.pop(table, None)
            if descriptor is not None:
                os.fsync(descriptor)
                os.close(descriptor)

    def to_convert(self) -> list[tuple[str, int]]:
        """Return (table, number) of closed files that are still JSON lines."""
        return [
            (table, segment.number)
            for table, segments in self.manifest.tables.items()
            for segment in segments
            if segment.closed and segment.format == "jsonl"
        ]

    def converted(self, table: str, number: int, now_ms: float) -> None:
        """Let the Parquet file take the place of the JSON lines, which go."""
        segment = next(s for s in self.manifest.tables[table] if s.number == number)
        old = self.folder / table / segment.file
        segment.format = "parquet"
        segment.bytes = (self.folder / table / segment.file).stat().st_size
        self.commit(now_ms, sync=True)
        with contextlib.suppress(OSError):
            old.unlink()

    def _cannot(self, error: OSError) -> ArchiveWriteError:
        return ArchiveWriteError(
            f"archive {self.folder}: {error.strerror or error}", hint="Make room, or archive into another folder."
        )


def write_whole(path: Path, data: bytes, *, sync: bool) -> None:
    """Replace a file by new contents in one step; raises OSError and leaves the old one if that fails."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as out:
            out.write(data)
            out.flush()
            if sync:
                os.fsync(out.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
