"""Results of an experiment: a row of medians with the range of its seeds, and its place among the rows of its case."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clover.plan.rows import Row

#: Columns whose ranges are told.
_RANGES = ("saved_pct", "saved_pct_rightsized", "accuracy_loss_pct", "late_pct", "objective", "mig_changes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A row and, for random schemes, how far its seeds lie apart.

    Attributes:
        row: Medians over the seeds.
        seeds: How many there were.
        ranges: (least, median, greatest) by field.
    """

    row: Row
    seeds: int
    ranges: dict[str, tuple[float, float, float]]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Result:
        """Return the result of the rows of one scheme, one per seed."""
        return cls(row=_median(rows), seeds=len(rows), ranges=_ranges(rows) if len(rows) > 1 else {})

    def as_row(self) -> dict[str, Any]:
        """Return the row in the words of the command line."""
        values = dataclasses.asdict(self.row)
        return {("lambda" if key == "lambda_" else key): value for key, value in values.items()}

    def as_spread(self) -> dict[str, Any]:
        """Return which row that is, and its ranges."""
        row = self.row
        where = {"scheme": row.scheme, "app": row.app, "trace": row.trace, "rate_rps": row.rate_rps, "gpus": row.gpus}
        return where | {"lambda": row.lambda_, "parking": row.parking, "seeds": self.seeds, "ranges": self.ranges}


def ranked(results: Iterable[Result]) -> Iterator[tuple[int | None, Result]]:
    """Give each row its place by mean objective among the feasible ones of its case; None if it is not feasible."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        row = result.row
        groups.setdefault((row.app, row.trace, row.rate_rps, row.gpus, row.lambda_, row.parking), []).append(result)
    for group in groups.values():
        good = sorted((r for r in group if r.row.feasible), key=lambda r: -r.row.objective)
        places = {id(result): place for place, result in enumerate(good, start=1)}
        for result in group:
            yield places.get(id(result)), result


def _median(rows: Sequence[Row]) -> Row:
    """Return a row of medians; truth values are the majority's."""
    first = rows[0]
    if len(rows) == 1:
        return first
    changes: dict[str, Any] = {}
    for column in dataclasses.fields(Row):
        values = [getattr(row, column.name) for row in rows]
        if isinstance(values[0], bool):
            changes[column.name] = sum(values) * 2 > len(values)
        elif isinstance(values[0], (int, float)) or None in values:
            middle = statistics.median(float("inf") if value is None else value for value in values)
            changes[column.name] = None if middle == float("inf") else middle
    changes["feasible"] = changes["late_pct"] <= 5.0
    return dataclasses.replace(first, **changes)


def _ranges(rows: Sequence[Row]) -> dict[str, tuple[float, float, float]]:
    found: dict[str, tuple[float, float, float]] = {}
    for name in _RANGES:
        values = [float(getattr(row, name)) for row in rows]
        found[name] = (min(values), statistics.median(values), max(values))
    return found
