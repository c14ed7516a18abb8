"""Goes on exporting while a run is archived: new rows are appended to text files as they come to count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from clover.analysis.load import Run
from clover.analysis.logs.export import Format, write_text
from clover.analysis.logs.frames import polars, read_lines
from clover.analysis.logs.manifest import Segment, read_manifest
from clover.analysis.logs.tables import TABLES
from clover.errors import ConfigurationError


@dataclass(slots=True)
class _Place:
    """How far a table was followed: rows, and bytes while they are JSON lines, of one of its files."""

    number: int = 1
    rows: int = 0
    bytes: int = 0


class Follower:
    """Appends what is new in a run's tables to files.

    Args:
        run: What to follow.
        out: Folder to be made; one that exists must be empty.
        form: `jsonl` or `csv`; a Parquet file cannot grow.
        tables: Which.
        since_ms, until_ms: As `export`.
    """

    def __init__(
        self,
        run: Run,
        out: Path,
        *,
        form: Format,
        tables: Sequence[str],
        since_ms: float | None = None,
        until_ms: float | None = None,
    ) -> None:
        if form == "parquet":
            raise ConfigurationError("--follow: a Parquet file cannot grow, expected --format jsonl or csv")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigurationError(f"{out}: it exists and is not empty; nothing was written")
        self._run = run
        self._out = out
        self._form: Format = form
        self._places = {table: _Place() for table in tables}
        self._between = (since_ms, until_ms)
        self._begun: set[str] = set()

    def step(self) -> tuple[int, bool]:
        """Append what is new; return how many rows that was, and whether the run is closed and nothing follows.

        Raises:
            ConfigurationError: Something cannot be read or written.
        """
        manifest = read_manifest(self._run.archive) or self._run.manifest
        self._run.manifest = manifest
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            rows = sum(self._table(table, place) for table, place in self._places.items())
        except FileNotFoundError:
            # A file became Parquet between the look at the manifest and that at the file: the next step finds it.
            return 0, False
        except OSError as error:
            raise ConfigurationError(f"export {self._out}: {error.strerror or error}") from error
        return rows, manifest.state == "closed"

    def _table(self, table: str, place: _Place) -> int:
        count = 0
        for segment in self._run.manifest.tables.get(table, []):
            if segment.number < place.number or (segment.number == place.number and segment.rows <= place.rows):
                continue
            if segment.number > place.number:
                place.number, place.rows, place.bytes = segment.number, 0, 0
            frame = self._cut(table, self._new_rows(table, segment, place))
            with (self._out / f"{table}.{self._form}").open("ab") as out:
                self._append(frame, table, out)
            place.rows, place.bytes = segment.rows, segment.bytes
            count += frame.height
        return count

    def _new_rows(self, table: str, segment: Segment, place: _Place) -> Any:
        path = self._run.archive / table / segment.file
        if segment.format == "parquet":
            return polars().read_parquet(path).slice(place.rows)
        with path.open("rb") as lines:
            lines.seek(place.bytes)
            return read_lines(table, lines.read(segment.bytes - place.bytes))

    def _cut(self, table: str, frame: Any) -> Any:
        since_ms, until_ms = self._between
        time = polars().col(TABLES[table].time)
        if since_ms is not None:
            frame = frame.filter(time >= since_ms)
        return frame if until_ms is None else frame.filter(time < until_ms)

    def _append(self, frame: Any, table: str, out: BinaryIO) -> None:
        write_text(frame, table, out, self._form, header=table not in self._begun)
        self._begun.add(table)
