"""Charts of some lines' height in block characters, with a dashed line where a threshold is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from cli.dashboard_text import age, fit
from clover.analysis.view_past import Slot
from clover.analysis.view_state import Snapshot

_BARS = " ▁▂▃▄▅▆▇█"
_DASH = "┄"
_BAND = "░"
_LINE_STYLE = "dim"
#: A chart narrower than this says nothing.
NARROWEST = 24
#: The past that is drawn at least.
_LEAST_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What to draw.

    Attributes:
        title: What it is.
        now: Its present value, in words.
        limit: What the dashed line is, in words; empty without one.
        columns: Values from left to right, None where nothing is known; infinity is drawn as the highest.
        threshold: Where the dashed line is.
        from_zero: Whether the lowest line is zero rather than a little below the smallest value.
        over: Whether more than the threshold is bad.
        style: Of bars.
        ahead: How many of the columns, at the right, lie in the future.
        high: Upper end of a band for each column, None where there is none; empty without any.
    """

    title: str
    now: str
    limit: str = ""
    columns: Sequence[float | None] = ()
    threshold: float | None = None
    from_zero: bool = True
    over: bool = False
    style: str = "green"
    ahead: int = 0
    high: Sequence[float | None] = ()


def columns_of(
    slots: Sequence[Slot],
    window_s: float,
    width: int,
    pick: Callable[[Slot], float | None],
    *,
    worst: bool = False,
) -> list[float | None]:
    """Return one value per column for the last `window_s` of the past, the newest at the right.

    Args:
        slots: Of equal length, oldest first.
        window_s: How much of the past.
        width: Columns.
        pick: Takes a value out of a slot.
        worst: Whether a column is the highest of its slots rather than their mean.
    """
    if not slots or width < 1:
        return []
    count = max(1, round(_covered_s(slots, window_s) / slots[-1].length_s))
    values = [None] * max(0, count - len(slots)) + [pick(slot) for slot in slots[-count:]]
    found: list[float | None] = []
    for column in range(width):
        first = column * count // width
        known = [v for v in values[first : max(first + 1, (column + 1) * count // width)] if v is not None]
        found.append((max(known) if worst else sum(known) / len(known)) if known else None)
    return found


def _covered_s(slots: Sequence[Slot], window_s: float) -> float:
    """Return how much of the past is drawn: of a young deployment not an hour of nothing."""
    known_s = len(slots) * slots[-1].length_s if slots else 0.0
    return min(window_s, max(_LEAST_S, known_s))


def charted(snapshot: Snapshot, window_s: float) -> str:
    """Say what charts cover."""
    return f"last {age(_covered_s(snapshot.slots, window_s))}; +/- longer or shorter"


def bars(chart: Chart, height: int) -> list[Text]:
    """Draw the columns of a chart in so many lines."""
    known = [value for value in chart.columns if value is not None and math.isfinite(value)]
    marks = [*known, *(each for each in (chart.threshold, *chart.high) if each is not None)]
    if not marks or height < 1:
        return [Text("no data yet" if row == 0 else "", style="dim") for row in range(height)]
    low, high = (0.0 if chart.from_zero else min(marks)), max(marks)
    margin = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    low, high = (low if chart.from_zero else low - margin), high + margin * 0.3
    steps = [_steps(value, low, high, height) for value in chart.columns]
    bands = [_steps(value, low, high, height) for value in chart.high]
    line = None if chart.threshold is None else height - 1 - int((chart.threshold - low) / (high - low) * height)
    return [_row(chart, steps, bands, height - 1 - row, dashed=row == line) for row in range(height)]


def _steps(value: float | None, low: float, high: float, height: int) -> int:
    """Return how high a bar is in eighths of a line; something is at least one."""
    if value is None:
        return 0
    part = 1.0 if math.isinf(value) else (value - low) / (high - low)
    return max(1, min(8 * height, round(part * 8 * height)))


def _row(chart: Chart, steps: Sequence[int], bands: Sequence[int], above: int, *, dashed: bool) -> Text:
    banded = [index < len(bands) and bands[index] > 8 * above + 2 for index in range(len(steps))]
    cells = (
        _cell(chart, index, step - 8 * above, dashed=dashed, banded=banded[index]) for index, step in enumerate(steps)
    )
    line = Text()
    # Neighbours of one style are one piece: a picture is written the quicker, and an SVG is the smaller.
    for style, alike in itertools.groupby(cells, key=lambda cell: cell[1]):
        line.append("".join(character for character, _ in alike), style=style)
    return line


def _cell(chart: Chart, index: int, filled: int, *, dashed: bool, banded: bool) -> tuple[str, str]:
    """Return the character of a column in one line, and its style."""
    if filled <= 0:
        return (_DASH if dashed else _BAND if banded else " "), _LINE_STYLE
    value = chart.columns[index]
    bad = chart.over and chart.threshold is not None and value is not None and value > chart.threshold
    ahead = index >= len(chart.columns) - chart.ahead
    return _BARS[min(8, filled)], "bold red" if bad else f"dim {chart.style}" if ahead else chart.style


def block(chart: Chart, width: int, height: int) -> list[Text]:
    """Draw a chart with its title, `height` lines in all."""
    title = Text.assemble((f"{chart.title} ", "bold"), chart.now)
    parts = [title, Text(f"{_DASH}{_DASH} {chart.limit}", style=_LINE_STYLE) if chart.limit else None]
    lines = [fit(parts, width, gap="  "), *bars(chart, height - 1)]
    for line in lines:
        line.truncate(width, pad=True)
    return lines


def beside(blocks: Sequence[list[Text]], gap: int) -> list[Text]:
    """Put blocks of equal height beside each other."""
    lines = [Text() for _ in blocks[0]]
    for number, each in enumerate(blocks):
        for line, more in zip(lines, each, strict=True):
            line.append(" " * gap if number else "")
            line.append_text(more)
    return lines
