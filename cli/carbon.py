"""`clover carbon ...`: what the grid emits, was and will be, by any source; import of other people's files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli import carbon_options, options
from cli.carbon_text import doctor_lines, figure, figure_line, import_lines
from cli.output import print_json, tell

if TYPE_CHECKING:
    from clover.carbon.port import CarbonSource
    from clover.core.carbon import CarbonIntensity
    from clover.core.forecast import Predicted

app = typer.Typer(no_args_is_help=True)

_T = TypeVar("_T")

Hours = Annotated[float, typer.Option("--hours", min=0.5, max=24 * 366, help="How many hours.")]
Source = Annotated[
    str,
    typer.Option("--carbon", help="Source: trace, or a live one (see `clover carbon doctor`).", envvar="CLOVER_CARBON"),
]


@app.command()
def now(
    *,
    source: Source = "trace",
    url: carbon_options.Url = None,
    zone: carbon_options.Zone = None,
    trace: options.Trace = "ciso-march",
    as_json: options.Json = False,
) -> None:
    """Print the newest figure of a source, with all that belongs to it.

    Examples: clover carbon now --carbon neso; clover carbon now --carbon neso --carbon-zone GB-13 --json
    """
    at_s = _clock().now_s()
    if source == "trace":
        found = _replayed(trace, at_s, 1)[0]
    else:
        found = _asked(source, zone, url, lambda live: live.latest(at_s))
    if as_json:
        print_json(figure(found, at_s))
    else:
        print(figure_line(found, at_s))


@app.command()
def history(
    *,
    source: Source = "trace",
    url: carbon_options.Url = None,
    zone: carbon_options.Zone = None,
    trace: options.Trace = "ciso-march",
    hours: Hours = 24.0,
    as_json: options.Json = False,
) -> None:
    """Print past figures of a source, oldest first; of a trace, its rows.

    Example: clover carbon history --carbon neso --hours 48
    """
    at_s = _clock().now_s()
    if source == "trace":
        found = _rows(trace, hours)
    else:
        found = list(_asked(source, zone, url, lambda live: live.history(at_s - hours * 3600.0, at_s)))
    if as_json:
        print_json({"figures": [figure(one, at_s) for one in found]})
    else:
        for one in found:
            print(figure_line(one, at_s))


@app.command()
def forecast(
    *,
    source: Source = "trace",
    url: carbon_options.Url = None,
    zone: carbon_options.Zone = None,
    trace: options.Trace = "ciso-march",
    hours: Hours = 24.0,
    as_json: options.Json = False,
) -> None:
    """Print the published forecast, and beside it that every hour will be as yesterday's, with its measured error band.

    Examples: clover carbon forecast --carbon neso --hours 24; clover carbon forecast --trace ciso-march
    """
    from cli.carbon_text import forecast_lines, forecast_object  # noqa: PLC0415 - keeps --help fast

    at_s = _clock().now_s()
    if source == "trace":
        published, past = list[Any](), {one.from_s: one.g_per_kwh for one in _rows(trace, float("inf"))}
        from_s, step_s = max(past) + 3600.0, 3600.0
    else:
        published, found, step_s = _asked(source, zone, url, lambda live: _ahead_and_past(live, at_s, hours))
        past = {one.from_s: one.g_per_kwh for one in found}
        from_s = at_s // step_s * step_s
    predicted, error = _persisted(past, from_s, step_s, hours)
    told = forecast_object(published, predicted, error, at_s)
    if as_json:
        print_json(told)
    else:
        for line in forecast_lines(told):
            print(line)


@app.command("import")
def import_(
    *,
    file: Annotated[Path, typer.Argument(help="CSV file: Electricity Maps, EIA-930, NESO, or any with --column.")],
    out: Annotated[Path | None, typer.Option("--out", help="Trace to write (default: only report).")] = None,
    zone: Annotated[str, typer.Option("--zone", help="Grid zone to note in the trace.")] = "unknown",
    column: Annotated[str | None, typer.Option("--column", help="Column to read instead of the dialect's own.")] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", help="Of stamps without an offset: UTC, Europe/Copenhagen ...")
    ] = None,
    factor: Annotated[str, typer.Option("--factor", help="lifecycle or direct.")] = "lifecycle",
    stamps: Annotated[
        str | None, typer.Option("--stamps", help="Whether a stamp is the start or the end of its interval.")
    ] = None,
    fill_within: Annotated[
        float,
        typer.Option(
            "--fill-within",
            parser=options.parse_duration,
            metavar="DURATION",
            help="Longest gap that is filled by a straight line.",
        ),
    ] = "3h",  # pyright: ignore[reportArgumentType] - parsed like a flag
    refuse_gaps: Annotated[bool, typer.Option("--refuse-gaps", help="Fail instead of filling.")] = False,
    as_json: options.Json = False,
) -> None:
    """Read somebody else's CSV file, report every gap and oddity, and write a trace.

    Examples: clover carbon import gb-2021.csv --zone GB --out traces/carbon/gb-2021.csv
    """
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from clover.carbon.dialects import Options, read_table  # noqa: PLC0415
    from clover.carbon.factors import load_factors  # noqa: PLC0415
    from clover.carbon.importing import import_table  # noqa: PLC0415
    from clover.core.intensity_trace import write_trace  # noqa: PLC0415
    from clover.data_files import read_text  # noqa: PLC0415
    from clover.errors import ConfigurationError  # noqa: PLC0415

    if stamps not in {None, "start", "end"}:
        raise ConfigurationError(f"--stamps = {stamps!r}: expected start or end")
    factors = load_factors(factor)
    read = Options(
        timezone=timezone,
        column=column,
        # Of NESO and of a named column only the user can know; a table of factors is for the others.
        factor=factors.factor if factor != "lifecycle" else None,
        factors=factors,
        end_stamps=None if stamps is None else stamps == "end",
    )
    table = read_table(read_text(file, "file"), name=file.name, options=read)
    trace, report = import_table(
        table, name=file.stem, zone=zone, fill_within_h=fill_within / 3600.0, refuse_gaps=refuse_gaps
    )
    if out is not None:
        out.write_text(write_trace(trace, title=f"imported from {file.name}"))
    told = msgspec.to_builtins(report) | {"out": str(out) if out else None}
    if as_json:
        print_json(told)
    else:
        for line in import_lines(told):
            print(line)


@app.command()
def doctor(
    *,
    source: Annotated[str | None, typer.Option("--carbon", help="Only this source.", envvar="CLOVER_CARBON")] = None,
    url: carbon_options.Url = None,
    zone: carbon_options.Zone = None,
    as_json: options.Json = False,
) -> None:
    """Check keys, zone and answer of a live source; without one, list them all and which keys are set.

    Example: clover carbon doctor --carbon electricitymaps --carbon-zone DE
    """
    import os  # noqa: PLC0415 - keeps --help fast

    from clover.carbon.registry import SOURCES, source_kind  # noqa: PLC0415
    from clover.errors import CloverError  # noqa: PLC0415

    names = list(SOURCES) if source in {None, "trace"} else [source or ""]
    checks: list[dict[str, Any]] = []
    at_s = _clock().now_s()
    for name in names:
        kind = source_kind(name)
        keys = {key: bool(os.environ.get(key) or os.environ.get(f"{key}_FILE")) for key in kind.keys}
        checks.append({"source": name, "about": kind.about, "url": url or kind.url, "keys": keys})
    if source in {None, "trace"}:
        _print_checks(checks, as_json=as_json)
        return
    try:
        found = _asked(source or "", zone, url, lambda live: live.latest(at_s))
    except CloverError as error:
        _print_checks([{**checks[0], "ok": False, "error": str(error)}], as_json=as_json)
        raise
    _print_checks([{**checks[0], "ok": True, "figure": figure(found, at_s)}], as_json=as_json)


def _print_checks(checks: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"sources": checks})
    else:
        for line in doctor_lines(checks):
            print(line)


# --- asking -----------------------------------------------------------------------------------------------------------


def _clock() -> Any:
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415 - keeps --help fast

    return SystemClock()


def _asked(name: str, zone: str | None, url: str | None, ask: Callable[[CarbonSource], Awaitable[_T]]) -> _T:
    """Ask a live source once."""
    from clover.carbon.registry import make_source  # noqa: PLC0415 - keeps --help fast

    async def run() -> _T:
        live = make_source(name, zone=zone, url=url, clock=_clock())
        try:
            return await ask(live)
        finally:
            await live.close()

    tell(f"asking {name}; where a deployment runs, `clover status` shows what it has already asked")
    return asyncio.run(run())


async def _ahead_and_past(
    live: CarbonSource, at_s: float, hours: float
) -> tuple[list[CarbonIntensity], list[CarbonIntensity], float]:
    published = list(await live.forecast(at_s, hours))
    return published, list(await live.history(at_s - 8 * 86_400.0, at_s)), live.traits.slot_s


def _persisted(past: dict[float, float], from_s: float, step_s: float, hours: float) -> tuple[list[Predicted], Any]:
    from clover.core.forecast import forecast_error, persistence, persistence_pairs  # noqa: PLC0415 - keeps --help fast

    steps = round(hours * 3600.0 / step_s)
    return persistence(past, from_s=from_s, step_s=step_s, steps=steps), forecast_error(persistence_pairs(past))


def _replayed(trace: str, at_s: float, rows: int) -> list[CarbonIntensity]:
    from clover.catalog import load_trace  # noqa: PLC0415 - keeps --help fast

    day_s = at_s // 86_400.0 * 86_400.0
    found = load_trace(trace)
    return [found.at(at_s + 3600.0 * n, started_s=day_s, hour_s=3600.0) for n in range(rows)]


def _rows(trace: str, hours: float) -> list[CarbonIntensity]:
    """Return the rows of a trace as figures from the beginning of 1970, or from its own start if it says one."""
    from clover.carbon.reading import utc_s  # noqa: PLC0415 - keeps --help fast
    from clover.catalog import load_trace  # noqa: PLC0415

    found = load_trace(trace)
    start_s = utc_s(found.started_at, f"trace {trace} start") if found.started_at else 0.0
    rows = range(min(len(found.values_g_per_kwh), int(min(hours, 1e6) / found.step_h)))
    middle = [start_s + 3600.0 * found.step_h * (row + 0.5) for row in rows]
    return [found.at(at, started_s=start_s, hour_s=3600.0) for at in middle]
