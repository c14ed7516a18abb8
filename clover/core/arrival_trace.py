"""Traces of arrivals: our own CSV, and the dialects of the published Azure traces. Pure; reads lines.

| dialect | columns | an arrival is |
|---|---|---|
| own, moments | `time_s` | a row |
| own, rates | `time_s,rate_rps` | drawn at that rate until the next row |
| own, counts | `time_s,requests` | drawn, so many on average until the next row |
| Azure Functions 2019 | `HashOwner,HashApp,HashFunction,Trigger,1,...,1440` | counts per minute, all functions |
| Azure Functions 2021 | `app,func,end_timestamp,duration` | a row, at end minus duration (s) |
| Azure LLM inference 2023, 2024 | `TIMESTAMP,ContextTokens,GeneratedTokens` | a row; tokens are not used |

The Azure traces are published under CC-BY by Microsoft (github.com/Azure/AzurePublicDataset); none ships with Clover.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from clover.core.arrivals import RateProfile
from clover.errors import TraceError

_MINUTE_S = 60.0
_MINUTES = 1440


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalTrace:
    """Arrivals of the past: moments, or a rate.

    Attributes:
        name: For people.
        dialect: Which form the file had.
        times_s: Rising, the first at 0; empty for a rate.
        profile: Rate, None for moments.
        requests: How many arrivals it holds (expected ones for a rate).
        span_s: From its start to its end.
        first_s: What its first row says of the time, which counts as its start.
    """

    name: str
    dialect: str
    times_s: tuple[float, ...] = ()
    profile: RateProfile | None = None
    requests: float
    span_s: float
    first_s: float = 0.0

    @property
    def mean_rps(self) -> float:
        """Mean rate over its span."""
        return self.requests / self.span_s


def read_arrivals(lines: Iterable[str], *, name: str) -> ArrivalTrace:
    """Read a trace of arrivals; the header says which dialect it is.

    Raises:
        TraceError: An unknown header, or a row that cannot be right; the message names the line of the file.
    """
    rows = _rows(lines, name)
    nothing: list[str] = []
    _, first = next(rows, (0, nothing))
    if not first:
        raise TraceError(f"arrivals {name}: the file is empty, expected a header line")
    header = [cell.strip() for cell in first]
    lowered = [cell.lower() for cell in header]
    if lowered[0] == "time_s" and len(header) <= 2:
        return _own(lowered, rows, name)
    if lowered[:4] == ["hashowner", "hashapp", "hashfunction", "trigger"]:
        return _functions_2019(header, rows, name)
    if lowered == ["app", "func", "end_timestamp", "duration"]:
        return _moments(rows, name, "azure-functions-2021", len(header), _began)
    if lowered and lowered[0] == "timestamp":
        return _moments(rows, name, "azure-llm", len(header), _stamp)
    shown = ",".join(header)
    raise TraceError(
        f"arrivals {name}: header {shown[:80]!r} is of no known trace; expected time_s, time_s,rate_rps, "
        "time_s,requests, or one of the Azure Functions or Azure LLM traces"
    )


def _rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Return rows with the number of their line; blank lines and comments are left out."""
    reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            if row and any(cell.strip() for cell in row) and not row[0].startswith("#"):
                # Windows editors and spreadsheets begin a file with a byte order mark.
                row[0] = row[0].removeprefix("\ufeff")
                yield reader.line_num, row
    except csv.Error as error:
        raise TraceError(f"arrivals {name} line {reader.line_num}: {error}") from error


def _number(text: str, field: str, where: str, *, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        raise TraceError(f"{where}: {field} = {text.strip()!r}, expected a number") from None
    if not (math.isfinite(value) and value >= least):
        raise TraceError(f"{where}: {field} = {text.strip()}, expected a number of at least {least:g}")
    return value


def _check_width(row: list[str], expected: int, where: str) -> None:
    if len(row) != expected:
        raise TraceError(f"{where}: {len(row)} columns, expected {expected}")


# --- moments


def _began(row: list[str], where: str) -> float:
    """Return when an invocation began; the published times are shifted, so that some may lie before the start."""
    end_s = _number(row[2], "end_timestamp", where)
    return end_s - _number(row[3], "duration", where)


_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def _stamp(row: list[str], where: str) -> float:
    """Return a time stamp in seconds; 2023 writes seven decimals, more than Python reads, 2024 an offset from UTC."""
    match = _STAMP.fullmatch(row[0].strip())
    if match is None:
        raise TraceError(f"{where}: TIMESTAMP = {row[0].strip()!r}, expected such as 2023-11-16 18:15:46.6805900")
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}{(match[4] or '+00:00').replace('Z', '+00:00')}")
    except ValueError as error:
        raise TraceError(f"{where}: TIMESTAMP = {row[0].strip()!r}: {error}") from None
    return moment.astimezone(UTC).timestamp() + float(match[3] or 0.0)


def _moments(
    rows: Iterator[tuple[int, list[str]]],
    name: str,
    dialect: str,
    columns: int,
    time_of: Callable[[list[str], str], float],
) -> ArrivalTrace:
    """Read one arrival per row; published traces are in the order of ends or of logs, not of arrivals."""
    times: list[float] = []
    for line, row in rows:
        where = f"arrivals {name} line {line}"
        _check_width(row, columns, where)
        times.append(time_of(row, where))
    return _of_times(sorted(times), name, dialect)


def _of_times(times: list[float], name: str, dialect: str) -> ArrivalTrace:
    if len(times) < 2 or times[-1] <= times[0]:
        raise TraceError(f"arrivals {name}: {len(times)} arrivals, expected at least two at different times")
    first = times[0]
    # The trace ends one mean gap after its last arrival, so that it may be repeated.
    span_s = (times[-1] - first) * len(times) / (len(times) - 1)
    moments = tuple(time_s - first for time_s in times)
    return ArrivalTrace(name=name, dialect=dialect, times_s=moments, requests=len(times), span_s=span_s)


# --- our own


def _own(header: list[str], rows: Iterator[tuple[int, list[str]]], name: str) -> ArrivalTrace:
    value = header[1] if len(header) == 2 else ""
    if value not in {"", "rate_rps", "requests"}:
        raise TraceError(f"arrivals {name}: second column {value!r}, expected rate_rps or requests")
    times: list[float] = []
    values: list[float] = []
    for line, row in rows:
        where = f"arrivals {name} line {line}"
        _check_width(row, len(header), where)
        time_s = _number(row[0], "time_s", where)
        if times and (time_s < times[-1] or (value and time_s == times[-1])):
            raise TraceError(f"{where}: time_s = {time_s:g} after {times[-1]:g}, expected rising times")
        times.append(time_s)
        if value:
            values.append(_number(row[1], value, where))
    if not value:
        return _of_times(times, name, "own moments")
    return _of_rates(times, values, name, counts=value == "requests")


def _of_rates(times: list[float], values: list[float], name: str, *, counts: bool) -> ArrivalTrace:
    if len(times) < 2:
        raise TraceError(
            f"arrivals {name}: {len(times)} rows, expected at least two: the last one's length is as before"
        )
    starts = [time_s - times[0] for time_s in times]
    end_s = starts[-1] + (starts[-1] - starts[-2])
    edges = [*starts, end_s]
    widths = [b - a for a, b in itertools.pairwise(edges)]
    rates = [value / width if counts else value for value, width in zip(values, widths, strict=True)]
    trace = _of_profile(starts, rates, end_s, name, "own counts" if counts else "own rates")
    return replace(trace, first_s=times[0])


def _of_profile(starts: list[float], rates: list[float], end_s: float, name: str, dialect: str) -> ArrivalTrace:
    if not any(rates):
        raise TraceError(f"arrivals {name}: no requests at all")
    profile = RateProfile(tuple(starts), tuple(rates), end_s)
    return ArrivalTrace(name=name, dialect=dialect, profile=profile, requests=profile.mean_rps * end_s, span_s=end_s)


# --- Azure Functions 2019


def _functions_2019(header: list[str], rows: Iterator[tuple[int, list[str]]], name: str) -> ArrivalTrace:
    """Sum the invocations of all functions per minute of the day."""
    minutes = [str(minute) for minute in range(1, _MINUTES + 1)]
    if header[4:] != minutes:
        raise TraceError(f"arrivals {name}: {len(header) - 4} minutes in the header, expected 1 to {_MINUTES}")
    totals = [0.0] * _MINUTES
    for line, row in rows:
        where = f"arrivals {name} line {line}"
        _check_width(row, len(header), where)
        for minute, cell in enumerate(row[4:]):
            if cell != "0":
                totals[minute] += _number(cell, f"minute {minute + 1}", where)
    starts = [minute * _MINUTE_S for minute in range(_MINUTES)]
    rates = [total / _MINUTE_S for total in totals]
    return _of_profile(starts, rates, _MINUTES * _MINUTE_S, name, "azure-functions-2019")
