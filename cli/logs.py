"""`clover logs`: what a deployment writes down, followed, archived and exported for analysis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cli import options
from cli.connection import connected
from cli.feed_reading import read_feeds
from cli.output import print_json, tell
from cli.recording import RunsDir
from cli.runs_option import RunArgument, run_folder
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.analysis.load import Run
    from clover.analysis.logs.export import Format
    from clover.bus.values import Entry, Feed

app = typer.Typer(no_args_is_help=True)

#: How often `export --follow` looks for new rows.
_LOOK_S = 0.5
#: What `tail` shows where no table is named: what happens, not what is measured every second.
_TAILED = ("requests", "events")
#: What people need not see; `--json` has it all.
_HIDDEN = frozenset({"stream_id", "part", "producer_sent", "producer_duplicates"})


@app.command()
def tail(
    *,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only this table; may be given again. [requests, events]")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="COLUMN=VALUE", help="Only rows with this value; may be given again, all hold."
        ),
    ] = None,
    since_start: Annotated[
        bool, typer.Option("--since-start/--since-now", help="Begin with what is kept, or with what comes next.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes next.")] = True,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Print rows as they are written; the columns are those of the archive (docs/analysis.md).

    Examples: clover logs tail --where outcome=late; clover logs tail --table power --where node=n1 --json
    """
    from clover.analysis.load import checked_table  # noqa: PLC0415 - keeps --help fast
    from clover.analysis.logs.rows import rows_of  # noqa: PLC0415
    from clover.bus.values import Feed  # noqa: PLC0415

    tables = tuple(checked_table(name) for name in table or _TAILED)
    filters = _filters(where or [], tables)
    here = options.where(deployment, redis, state_dir, wait)

    def take(entry: Entry) -> None:
        for name, row in rows_of(entry.id, entry.message):
            if name in tables and all(_told(row.get(column)) == value for column, value in filters.items()):
                print_row(name, row, as_json=as_json)

    asyncio.run(read_feeds(here, "logs", list(Feed), take, since_start=since_start, follow=follow))


def _filters(given: list[str], tables: tuple[str, ...]) -> dict[str, str]:
    from clover.analysis.logs.tables import TABLES  # noqa: PLC0415 - keeps --help fast

    known = {column.name for name in tables for column in TABLES[name].columns}
    filters: dict[str, str] = {}
    for text in given:
        column, equals, value = text.partition("=")
        if not equals or column not in known:
            raise ConfigurationError(
                f"--where {text!r}: expected COLUMN=VALUE with a column of {', '.join(tables)}",
                hint=f"Columns: {', '.join(sorted(known))}.",
            )
        filters[column] = value
    return filters


def _told(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def print_row(table: str, row: dict[str, Any], *, as_json: bool) -> None:
    """Print one row for people, or whole as JSON."""
    from clover.analysis.logs.tables import TABLES  # noqa: PLC0415 - keeps --help fast

    if as_json:
        print_json({"table": table, **row})
        return
    time_column = TABLES[table].time
    at = datetime.fromtimestamp(row[time_column] / 1e3, UTC).strftime("%H:%M:%S.%f")[:-3]
    shown = [
        f"{name}={_short(value)}"
        for name, value in row.items()
        if name not in {*_HIDDEN, time_column} and value is not None and value != "" and not isinstance(value, list)
    ]
    print(f"{at} {table:9} {' '.join(shown)}", flush=True)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@app.command()
def archive(
    folder: Annotated[Path, typer.Argument(help="Folder of the archive; one that was begun is gone on with.")],
    *,
    after: Annotated[
        list[str] | None,
        typer.Option(
            "--after",
            metavar="STREAM=ID",
            help="A new archive begins behind this entry of log, tel, carbon or evt; default: with the oldest kept.",
        ),
    ] = None,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    as_json: options.Json = False,
) -> None:
    """Write everything that a deployment logs into tables of files, until Ctrl-C; `clover up` does so by itself.

    Rows are JSON lines at first; full files become Parquet if polars is installed. It reads behind a position of its
    own that lies with the rows: a kill costs nothing, the service never waits for it, and what was trimmed before it
    was read is stated as a gap.

    Example: clover logs archive my-run/archive
    """
    here = options.where(deployment, redis, state_dir, wait)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with contextlib.suppress(OSError):
        # Whatever else runs on this host goes first.
        os.nice(10)
    asyncio.run(_archive(here, folder, _positions(after or [])))
    if as_json:
        print_json(_archived(folder))
    else:
        tell(f"archive     {folder}")


def _archived(folder: Path) -> dict[str, Any]:
    """Return what an archive holds."""
    from clover.analysis.logs.manifest import read_manifest  # noqa: PLC0415 - keeps --help fast

    manifest = read_manifest(folder)
    if manifest is None:
        raise ConfigurationError(f"archive {folder}: its manifest is gone")
    return {
        "archive": str(folder),
        "caught_up": manifest.caught_up,
        "rows": {table: manifest.rows(table) for table in sorted(manifest.tables)},
        "gaps": len(manifest.gaps),
    }


def _positions(given: list[str]) -> dict[Feed, str]:
    from clover.bus.values import Feed  # noqa: PLC0415 - keeps --help fast

    positions: dict[Feed, str] = {}
    for text in given:
        stream, _, entry_id = text.partition("=")
        if stream not in [feed.value for feed in Feed] or not re.fullmatch(r"\d+(-\d+)?", entry_id):
            raise ConfigurationError(
                f"--after {text!r}: expected STREAM=ID with one of {', '.join(feed.value for feed in Feed)}"
            )
        positions[Feed(stream)] = entry_id
    return positions


async def _archive(here: options.Where, folder: Path, after: dict[Feed, str]) -> None:
    from clover.agents.runtime import run_agent  # noqa: PLC0415 - keeps --help fast
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415
    from clover.analysis.logs.archiver import Archiver  # noqa: PLC0415
    from clover.analysis.logs.files import ArchiveFiles  # noqa: PLC0415

    clock = SystemClock()
    with ArchiveFiles(folder, deployment=here.deployment, now_ms=time.time() * 1e3) as files:
        bus = await connected(here, "archive")
        archiver = Archiver(bus, files, clock.now_ms, after=after)
        await run_agent(bus=bus, clock=clock, source="archive", work=archiver.run)


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(help="Folder to be made.")],
    *,
    form: Annotated[str, typer.Option("--format", help="parquet, jsonl or csv.")] = "parquet",
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only this table; may be given again. [all]")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Rows from then on: ISO 8601 (UTC), or so long before the end: 10m.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Rows before then; as --since.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run's archive is closed (jsonl, csv).")
    ] = False,
    runs_dir: RunsDir = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Write the tables of a run as files for other tools, and export.json: what they hold and what is missing.

    Examples: clover logs export last tables; clover logs export last csv --format csv --table requests --since 10m
    """
    from clover.analysis.load import checked_table, load  # noqa: PLC0415 - keeps --help fast
    from clover.analysis.logs.export import FORMATS  # noqa: PLC0415
    from clover.analysis.logs.export import export as write  # noqa: PLC0415
    from clover.analysis.logs.tables import TABLES  # noqa: PLC0415

    if form not in FORMATS:
        raise ConfigurationError(f"--format = {form!r}: expected one of {', '.join(FORMATS)}")
    tables = tuple(dict.fromkeys(checked_table(name) for name in table or TABLES))
    with load(run_folder(run, runs_dir, state_dir)) as opened:
        since_ms, until_ms = (_moment(name, text, opened) for name, text in (("--since", since), ("--until", until)))
        if follow:
            _follow(opened, out, cast("Format", form), tables, since_ms, until_ms)
            return
        told = write(opened, out, form=cast("Format", form), tables=tables, since_ms=since_ms, until_ms=until_ms)
    if as_json:
        print_json(told)
    else:
        _say(told, out)


def _follow(
    run: Run, out: Path, form: Format, tables: tuple[str, ...], since_ms: float | None, until_ms: float | None
) -> None:
    from clover.analysis.logs.follow import Follower  # noqa: PLC0415 - keeps --help fast

    follower = Follower(run, out, form=form, tables=tables, since_ms=since_ms, until_ms=until_ms)
    total = 0
    while True:
        rows, closed = follower.step()
        total += rows
        if closed:
            tell(f"{total} rows in {out}; the archive is closed")
            return
        time.sleep(_LOOK_S)


def _moment(name: str, text: str | None, run: Run) -> float | None:
    """Return a moment in ms: absolute, or before the newest thing that the archive holds."""
    if text is None:
        return None
    if re.fullmatch(r"[0-9.]+[a-z]+", text):
        newest = max((int(position.cursor.partition("-")[0]) for position in run.manifest.feeds.values()), default=0)
        return newest - 1e3 * options.parse_duration(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{name} = {text!r}: expected a time such as 2026-01-20T12:00, or a duration such as 10m"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e3


def _say(told: dict[str, Any], out: Path) -> None:
    for name, made in told["tables"].items():
        tell(f"{name:10} {made['rows']:9,} rows  {made['first_stream_id'] or '-'} .. {made['last_stream_id'] or '-'}")
    for gap in told["gaps"]:
        tell(
            f"gap        {gap['feed']}: {gap['entries'] or 'unknown'} entries after {gap['after_id']}: {gap['reason']}"
        )
    for check in told["checks"]:
        if check["agree"] is False:
            tell(f"differs    {check['name']}: {check['rows']:g} rows, {check['counted']:g} counted; {check['note']}")
    print(out)
