"""Tables of a run as files for other tools: Parquet, JSON lines or CSV, with a document that says what they hold."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

from clover.analysis.load import Run
from clover.analysis.logs.frames import polars, schema_of
from clover.analysis.logs.reconcile import outcomes_of, reconcile
from clover.analysis.logs.tables import TABLES, TABLES_VERSION
from clover.errors import ConfigurationError

Format = Literal["parquet", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "csv")
#: Describes the exported files.
DOCUMENT = "export.json"


def export(
    run: Run,
    out: Path,
    *,
    form: Format,
    tables: Sequence[str] = tuple(TABLES),
    since_ms: float | None = None,
    until_ms: float | None = None,
) -> dict[str, Any]:
    """Write tables into a new folder, whole or not at all, and return what `export.json` says.

    Args:
        run: What to export.
        out: Folder to be made; one that exists must be empty.
        form: Of the files.
        tables: Which.
        since_ms, until_ms: Rows of which time, by each table's time column; None for all. `until_ms` is not included.

    Raises:
        ConfigurationError: The folder has files in it, cannot be written, or the disk is full: nothing was written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(
            f"{out}: it exists and is not empty; nothing was written", hint="Choose a folder that does not exist."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _cannot(out, error) from error
    try:
        made = {name: _write(cut(run, name, since_ms, until_ms), name, fresh, form) for name in tables}
        document = _document(run, made, form, since_ms, until_ms)
        (fresh / DOCUMENT).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        fresh.chmod(0o755)
        fresh.replace(out)
    except (OSError, polars().exceptions.PolarsError) as error:
        raise _cannot(out, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return document


def _cannot(out: Path, error: Exception) -> ConfigurationError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
    return ConfigurationError(
        f"export {out}: {reason}; nothing was written",
        hint="Make room, or choose another folder." if full else "Choose a folder that can be written.",
    )


def cut(run: Run, table: str, since_ms: float | None, until_ms: float | None) -> Any:
    """Return the rows of a table within an interval of its time column."""
    pl = polars()
    frame, time = run.frame(table), pl.col(TABLES[table].time)
    if since_ms is not None:
        frame = frame.filter(time >= since_ms)
    return frame if until_ms is None else frame.filter(time < until_ms)


def _write(frame: Any, table: str, folder: Path, form: Format) -> dict[str, Any]:
    path = folder / f"{table}.{form}"
    with path.open("wb") as out:
        if form == "parquet":
            frame.write_parquet(out, compression="zstd", compression_level=3)
        else:
            write_text(frame, table, out, form)
        out.flush()
        os.fsync(out.fileno())
    ids = frame["stream_id"]
    return {
        "file": path.name,
        "rows": frame.height,
        "first_stream_id": ids[0] if frame.height else None,
        "last_stream_id": ids[-1] if frame.height else None,
    }


def write_text(frame: Any, table: str, out: Any, form: Format, *, header: bool = True) -> None:
    """Write a frame as JSON lines or CSV; in CSV lists and records are JSON."""
    if form == "jsonl":
        frame.write_ndjson(out)
    else:
        _flat(frame, table).write_csv(out, include_header=header)


def _flat(frame: Any, table: str) -> Any:
    pl = polars()
    nested = [name for name, kind in schema_of(table).items() if kind.is_nested()]
    if not nested:
        return frame
    texts = {
        name: pl.Series(name, [orjson.dumps(value).decode() for value in frame[name].to_list()], dtype=pl.String)
        for name in nested
    }
    return frame.with_columns(**texts)


def _document(
    run: Run, made: dict[str, dict[str, Any]], form: Format, since_ms: float | None, until_ms: float | None
) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "schema": 1,
        "tables_version": TABLES_VERSION,
        "run": run.folder.resolve().name,
        "deployment": manifest.deployment,
        "state": manifest.state,
        "caught_up": manifest.caught_up,
        "format": form,
        "since_ms": since_ms,
        "until_ms": until_ms,
        "tables": made,
        "streams": {
            feed: {"first_id": position.first_id, "last_id": position.cursor, "entries": position.entries}
            for feed, position in manifest.feeds.items()
        },
        "gaps": msgspec.to_builtins(manifest.gaps),
        "requests_by_outcome": outcomes_of(run),
        "checks": [dataclasses.asdict(check) for check in reconcile(run)],
    }
