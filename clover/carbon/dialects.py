"""Other people's files of carbon intensity: which dialect one is in, and its rows as they stand there.

Nothing is mended here; `clover.carbon.importing` puts the rows on a grid and says what it did.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from clover.carbon.factors import EmissionFactors
from clover.core.carbon import IntensityFactor, check_intensity
from clover.errors import TraceError

Dialect = Literal["electricitymaps", "eia930", "neso", "columns"]

#: What people write for "no value".
BLANKS = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})

_FUELS = ("COL", "NG", "NUC", "OIL", "OTH", "SUN", "WAT", "WND")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its line, the second at which its interval begins, and what it holds (None: blank)."""

    line: int
    at_s: float
    value: float | None
    forecast: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a file does not say itself.

    Attributes:
        timezone: Of stamps without an offset, an IANA name; None refuses them unless the header says UTC.
        column: Which column to read; None takes the dialect's own.
        factor: Which of two columns of Electricity Maps, and what the figures are called otherwise.
        factors: For EIA-930 generation.
        end_stamps: Whether stamps are the end of their interval; None as the header says, else the beginning.
    """

    timezone: str | None = None
    column: str | None = None
    factor: IntensityFactor | None = None
    factors: EmissionFactors | None = None
    end_stamps: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of a file in their order, and what they are."""

    dialect: Dialect
    factor: IntensityFactor
    rows: tuple[Row, ...]
    end_stamps: bool
    has_forecast: bool


def read_table(text: str, *, name: str, options: Options) -> Table:
    """Read a CSV file of any known dialect.

    Raises:
        TraceError: No dialect fits, or a cell cannot be read; the message names line and column.
    """
    lines = [line for line in csv.reader(text.splitlines()) if line and not line[0].startswith("#")]
    if len(lines) < 2:
        raise TraceError(f"{name}: no rows")
    header = [cell.strip().lstrip("\ufeff") for cell in lines[0]]
    time_column = _time_column(header, name)
    plan = _plan(header, name, options)
    clock = _Stamps(header[time_column], name, options)
    rows: list[Row] = []
    for number, cells in enumerate(lines[1:], start=2):
        where = f"{name} line {number}"
        if len(cells) != len(header):
            raise TraceError(f"{where}: {len(cells)} columns, expected {len(header)}")
        value, forecast = plan.read(cells, where)
        rows.append(Row(number, clock.read(cells[time_column], where), value, forecast))
    return Table(
        dialect=plan.dialect,
        factor=plan.factor,
        rows=tuple(rows),
        end_stamps=clock.end,
        has_forecast=plan.forecast is not None,
    )


# --- columns ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    dialect: Dialect
    factor: IntensityFactor
    value: Callable[[Sequence[str], str], float | None]
    forecast: int | None = None

    def read(self, cells: Sequence[str], where: str) -> tuple[float | None, float | None]:
        forecast = None if self.forecast is None else _number(cells[self.forecast], f"{where} forecast")
        if forecast is not None:
            check_intensity(forecast, f"{where} forecast")
        value = self.value(cells, where)
        return (None if value is None else check_intensity(value, where)), forecast


def _time_column(header: Sequence[str], name: str) -> int:
    for wanted in ("utc time at end of hour", "utc time", "datetime (utc)", "datetime", "timestamp", "time", "date"):
        for index, column in enumerate(header):
            if column.lower() == wanted:
                return index
    raise TraceError(f"{name}: no column of times among {', '.join(header)}, expected datetime or timestamp")


def _plan(header: Sequence[str], name: str, options: Options) -> _Plan:
    lower = [column.lower() for column in header]
    forecast = _find(lower, lambda c: "forecast" in c and "intensity" in c)
    if options.column is not None:
        if options.column not in header:
            raise TraceError(f"{name}: no column {options.column!r}, expected one of {', '.join(header)}")
        return _Plan(
            dialect="columns",
            factor=options.factor or "unknown",
            value=_cell(header.index(options.column)),
            forecast=forecast,
        )
    fuels = {
        fuel: index
        for index, column in enumerate(header)
        if (fuel := column.removeprefix("NG: ").strip().upper()) in {*_FUELS, "GEO", "BAT", "PS", "OES", "UNK"}
    }
    if {"COL", "NG", "NUC"} <= fuels.keys():
        if options.factors is None:
            raise TraceError(f"{name}: generation by fuel needs emission factors")
        return _Plan(dialect="eia930", factor=options.factors.factor, value=_mix(fuels, options.factors))
    factor = options.factor or "lifecycle"
    words = {"lifecycle": ("lca", "life cycle", "lifecycle"), "direct": ("direct",), "unknown": ()}[factor]
    both = _find(lower, lambda c: "carbon intensity" in c and any(word in c for word in words))
    if both is not None:
        return _Plan(dialect="electricitymaps", factor=factor, value=_cell(both))
    actual = _find(
        lower, lambda c: "forecast" not in c and ("actual carbon intensity" in c or c.startswith("carbon_intensity"))
    )
    if actual is not None:
        return _Plan(dialect="neso", factor=options.factor or "direct", value=_cell(actual), forecast=forecast)
    raise TraceError(
        f"{name}: no known dialect fits the columns {', '.join(header)}; name the one to read with --column"
    )


def _find(columns: Sequence[str], fits: Callable[[str], bool]) -> int | None:
    return next((index for index, column in enumerate(columns) if fits(column)), None)


def _cell(index: int) -> Callable[[Sequence[str], str], float | None]:
    return lambda cells, where: _number(cells[index], where)


def _mix(fuels: Mapping[str, int], factors: EmissionFactors) -> Callable[[Sequence[str], str], float | None]:
    """Read an intensity from generation by fuel; an hour in which any fuel is blank is blank."""

    def read(cells: Sequence[str], where: str) -> float | None:
        made = {fuel: _number(cells[index], f"{where} {fuel}") for fuel, index in fuels.items()}
        known = {fuel: mwh for fuel, mwh in made.items() if mwh is not None}
        return factors.intensity(known) if len(known) == len(made) else None

    return read


def _number(cell: str, where: str) -> float | None:
    text = cell.strip()
    if text.lower() in BLANKS:
        return None
    try:
        value = float(text.replace(",", "") if text.count(",") and "." in text else text)
    except ValueError:
        raise TraceError(f"{where}: {cell!r} is not a number") from None
    if not math.isfinite(value):
        raise TraceError(f"{where}: {cell!r} is not a finite number")
    return value


# --- times ------------------------------------------------------------------------------------------------------------


class _Stamps:
    """Reads the stamps of one file, in its order: the hour that comes twice in autumn is told apart by that order."""

    def __init__(self, column: str, name: str, options: Options) -> None:
        self.end = options.end_stamps if options.end_stamps is not None else "end of hour" in column.lower()
        self._zone = _zone("UTC" if "utc" in column.lower() else options.timezone, name)
        self._seen: set[datetime] = set()

    def read(self, text: str, where: str) -> float:
        try:
            stamp = datetime.fromisoformat(text.strip())
        except ValueError:
            raise TraceError(f"{where}: {text!r} is not a time such as 2022-01-31T13:00Z") from None
        if stamp.tzinfo is not None:
            return stamp.timestamp()
        if self._zone is None:
            raise TraceError(f"{where}: {text!r} has no offset from UTC; say where it is with --timezone, such as UTC")
        return self._local(stamp, where)

    def _local(self, stamp: datetime, where: str) -> float:
        again = stamp in self._seen
        self._seen.add(stamp)
        first, second = (stamp.replace(tzinfo=self._zone, fold=fold).timestamp() for fold in (0, 1))
        if first > second or datetime.fromtimestamp(first, self._zone).replace(tzinfo=None) != stamp:
            raise TraceError(f"{where}: {stamp} does not exist in {self._zone} (clocks were put forward)")
        return second if again else first


def _zone(name: str | None, file: str) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise TraceError(f"{file}: --timezone = {name!r} is not a time zone such as UTC or Europe/Copenhagen") from None


def iso(at_s: float) -> str:
    """Write a second as UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
