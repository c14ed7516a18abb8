"""`clover query`: SQL over the tables of a run."""

from __future__ import annotations

import csv
import sys
from typing import Annotated, Any

import typer

from cli import options
from cli.output import print_json, tell
from cli.recording import RunsDir
from cli.runs_option import RunOption, run_folder
from clover.errors import ConfigurationError

#: More rows than this are not drawn as a table.
_DRAWN = 1000


def query(
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="One query in DuckDB's SQL; - reads it from standard input.")
    ],
    *,
    run: RunOption = "last",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    runs_dir: RunsDir = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Ask a run's tables: requests, decisions, plans, intensity, ledger, power, instances, health, events.

    docs/analysis.md lists their columns, and ten questions with their answers.

    Example: clover query "select outcome, count(*) from requests group by all"
    """
    from clover.analysis.load import load  # noqa: PLC0415 - keeps --help fast

    if as_csv and as_json:
        raise ConfigurationError("--csv and --json: expected one of them")
    text = sys.stdin.read() if sql == "-" else sql
    with load(run_folder(run, runs_dir, state_dir)) as opened:
        names, rows = opened.sql(text)
        if opened.is_open:
            tell("note: the run is still open, or was not ended in order; this is what its archive held just now")
        if opened.manifest.gaps:
            tell(f"note: the archive has {len(opened.manifest.gaps)} gaps, see clover report")
    _show(names, rows, as_csv=as_csv, as_json=as_json)


def _show(names: list[str], rows: list[tuple[Any, ...]], *, as_csv: bool, as_json: bool) -> None:
    if as_json:
        print_json({"columns": names, "rows": [[_plain(value) for value in row] for row in rows]})
    elif as_csv or len(rows) > _DRAWN:
        out = csv.writer(sys.stdout)
        out.writerow(names)
        out.writerows(rows)
    else:
        _draw(names, rows)


def _draw(names: list[str], rows: list[tuple[Any, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - keeps --help fast
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table()
    for place, name in enumerate(names):
        numbers = bool(rows) and all(isinstance(row[place], (int, float)) or row[place] is None for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        # As they are: `[parked]` is no markup.
        table.add_row(*(Text(_text(value)) for value in row))
    console = Console()
    # Into a pipe nothing is cut off.
    (console if console.is_terminal else Console(width=10_000)).print(table)


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return float(value) if type(value).__name__ == "Decimal" else str(value)
