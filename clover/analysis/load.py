"""A run's tables as polars frames, or as views of DuckDB: `load("runs/...")`.

Both read what the archive's manifest names, so a run that is still open reads as it was at that moment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from clover.analysis.logs.frames import duckdb, polars, read_lines, schema_of, write_parquet
from clover.analysis.logs.manifest import Manifest, Segment, read_manifest
from clover.analysis.logs.tables import TABLES
from clover.errors import ConfigurationError

#: Folder of the archive within a run's folder.
ARCHIVE = "archive"
#: The files of an open run may change between two looks at it; so often it is looked at anew.
_ATTEMPTS = 5


class Run:
    """One archived run; made by `load`. As a context manager it closes its connection to DuckDB.

    Attributes:
        folder: Of the run.
        archive: Folder of the archive.
        manifest: What the archive says about itself; that of the moment of loading.
    """

    def __init__(self, folder: Path, archive: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.archive = archive
        self.manifest = manifest
        self._frames: dict[str, Any] = {}
        self._connection: Any = None
        self._snapshots: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Forget frames, connection and temporary files; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._snapshots is not None:
            self._snapshots.cleanup()
            self._snapshots = None
        self._frames.clear()

    @property
    def is_open(self) -> bool:
        """Whether somebody still adds to it, or died doing so."""
        return self.manifest.state == "open"

    def document(self, name: str) -> dict[str, Any] | None:
        """Return a JSON file of the run's folder, such as `summary.json`; None if there is none.

        Raises:
            ConfigurationError: It is damaged.
        """
        path = self.folder / name
        try:
            found = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        if not isinstance(found, dict):
            raise ConfigurationError(f"{path}: expected a JSON object")
        return found

    def frame(self, table: str) -> Any:
        """Return a table as a polars DataFrame; empty, with all columns, if the run has no rows of it.

        Raises:
            ConfigurationError: There is no such table, a file of it is missing or damaged, or polars is not installed.
        """
        if table not in self._frames:
            self._frames[table] = self._read(checked_table(table))
        return self._frames[table]

    def connection(self) -> Any:
        """Return a connection to an in-memory DuckDB in which every table is a view.

        Raises:
            ConfigurationError: As `frame`; or duckdb is not installed.
        """
        if self._connection is None:
            connection = duckdb().connect(":memory:")
            connection.execute("SET TimeZone = 'UTC'")
            try:
                for table in TABLES:
                    files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in self._parquet_files(table))
                    connection.execute(f"CREATE VIEW {table} AS FROM read_parquet([{files}], union_by_name = true)")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def sql(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return column names and rows of a query.

        Raises:
            ConfigurationError: The query is wrong, or as `connection`.
        """
        module = duckdb()
        try:
            answer = self.connection().execute(query)
            names = [column[0] for column in answer.description or ()]
            return names, answer.fetchall()
        except module.Error as error:
            raise ConfigurationError(f"query: {str(error).splitlines()[0]}", hint=_names_hint(str(error))) from error

    # --- files

    def _read(self, table: str) -> Any:
        pl = polars()
        schema = schema_of(table)
        for _ in range(_ATTEMPTS):
            try:
                parts = [self._part(table, segment) for segment in self.manifest.tables.get(table, [])]
            except FileNotFoundError as error:
                self._look_again(error)
                continue
            whole = pl.concat([pl.DataFrame(schema=schema), *parts], how="diagonal_relaxed")
            return whole.select(list(schema))
        raise ConfigurationError(f"run {self.folder}: its files change faster than they can be read")

    def _part(self, table: str, segment: Segment) -> Any:
        pl = polars()
        path = self.archive / table / segment.file
        try:
            if segment.format == "parquet":
                return pl.read_parquet(path)
            with path.open("rb") as lines:
                return read_lines(table, lines.read(segment.bytes))
        except FileNotFoundError:
            raise
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ConfigurationError(f"table {table}: {path}: {str(error).splitlines()[0]}") from error

    def _look_again(self, error: FileNotFoundError) -> None:
        """Read the manifest anew, since a file that it named has gone; refuse if it still names it."""
        newer = read_manifest(self.archive)
        if newer is None or newer == self.manifest:
            raise ConfigurationError(
                f"run {self.folder}: {error.filename} is missing, though its manifest names it"
            ) from error
        self.manifest = newer

    def _parquet_files(self, table: str) -> Sequence[Path]:
        """Return Parquet files that hold a table; what is JSON lines, or nothing, gets a temporary one."""
        segments = self.manifest.tables.get(table, [])
        files = [self.archive / table / segment.file for segment in segments]
        if files and all(s.format == "parquet" for s in segments) and all(file.exists() for file in files):
            return files
        self._snapshots = self._snapshots or tempfile.TemporaryDirectory(prefix="clover-")
        return [write_parquet(self.frame(table), Path(self._snapshots.name) / f"{table}.parquet")]


def load(run: str | Path) -> Run:
    """Open an archived run.

    Args:
        run: Its folder, or that of its archive.

    Raises:
        ConfigurationError: There is no archive, it is damaged, or a newer version of Clover wrote it.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise ConfigurationError(f"run {str(run)!r}: no such folder", hint="`clover runs ls` lists runs.")
    for archive in (folder / ARCHIVE, folder):
        manifest = read_manifest(archive)
        if manifest is not None:
            return Run(folder, archive, manifest)
    raise ConfigurationError(
        f"run {folder} has no archive of tables", hint="It was written without one (--no-archive), or is no run."
    )


def checked_table(name: str) -> str:
    """Return the name of a table if there is one, else raise ConfigurationError."""
    if name not in TABLES:
        raise ConfigurationError(f"table {name!r} is unknown, expected one of {', '.join(TABLES)}")
    return name


def _names_hint(message: str) -> str:
    return f"Tables: {', '.join(TABLES)}." if "does not exist" in message else ""
