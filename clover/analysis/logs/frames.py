"""Tables as polars frames: the one schema for JSON lines and Parquet; polars is imported when it is needed."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from clover.analysis.logs.tables import NESTED, TABLES, Kind
from clover.errors import ConfigurationError

_HINT = "pip install 'clover-serve[analysis]' (in a checkout: make analysis)"


def polars() -> Any:
    """Return the module; raises ConfigurationError with the way to get it."""
    # One thread is enough, and leaves the other cores to the service.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    try:
        import polars as pl  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError("this needs polars, which is not installed", hint=_HINT) from error
    return pl


def duckdb() -> Any:
    """Return the module; raises ConfigurationError with the way to get it."""
    try:
        import duckdb as found  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError("this needs duckdb, which is not installed", hint=_HINT) from error
    return found


def schema_of(table: str) -> dict[str, Any]:
    """Return the polars types of a table's columns."""
    return {column.name: _type(column.kind) for column in TABLES[table].columns}


def _type(kind: Kind) -> Any:
    pl = polars()
    simple = {"text": pl.String, "integer": pl.Int64, "real": pl.Float64, "flag": pl.Boolean}
    if kind in simple:
        return simple[kind]
    if kind == "texts":
        return pl.List(pl.String)
    return pl.List(pl.Struct({name: _type(inner) for name, inner in NESTED[kind].items()}))


def read_lines(table: str, data: bytes) -> Any:
    """Return JSON lines as a frame with the table's columns, whatever order they came in."""
    pl = polars()
    schema = schema_of(table)
    if not data:
        return pl.DataFrame(schema=schema)
    return pl.read_ndjson(io.BytesIO(data), schema=schema).select(list(schema))


def to_parquet(folder: Path, table: str, number: int, length: int) -> Path:
    """Write the first `length` bytes of a file of JSON lines as Parquet beside it, whole or not at all.

    Raises:
        OSError: It cannot be read or written.
    """
    source = folder / table / f"{number:06d}.jsonl"
    with source.open("rb") as lines:
        frame = read_lines(table, lines.read(length))
    return write_parquet(frame, folder / table / f"{number:06d}.parquet")


def write_parquet(frame: Any, path: Path) -> Path:
    """Write a frame as zstd Parquet in one step; raises OSError and leaves nothing behind if that fails."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as out:
            frame.write_parquet(out, compression="zstd", compression_level=3)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return path
