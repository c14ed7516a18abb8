"""Charts of some lines' height in block characters, with a dashed line where a threshold is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from cli.dashboard_text import age, clean, fit, grams, milliseconds, percent
from clover.analysis.view_past import Slot
from clover.analysis.view_state import Snapshot

_BARS = " ▁▂▃▄▅▆▇█"
_DASH = "┄"
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
    marks = [*known, *([chart.threshold] if chart.threshold is not None else [])]
    if not marks or height < 1:
        return [Text("no data yet" if row == 0 else "", style="dim") for row in range(height)]
    low, high = (0.0 if chart.from_zero else min(marks)), max(marks)
    margin = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    low, high = (low if chart.from_zero else low - margin), high + margin * 0.3
    steps = [_steps(value, low, high, height) for value in chart.columns]
    line = None if chart.threshold is None else height - 1 - int((chart.threshold - low) / (high - low) * height)
    return [_row(chart, steps, height - 1 - row, dashed=row == line) for row in range(height)]


def _steps(value: float | None, low: float, high: float, height: int) -> int:
    """Return how high a bar is in eighths of a line; something is at least one."""
    if value is None:
        return 0
    part = 1.0 if math.isinf(value) else (value - low) / (high - low)
    return max(1, min(8 * height, round(part * 8 * height)))


def _row(chart: Chart, steps: Sequence[int], above: int, *, dashed: bool) -> Text:
    line = Text()
    first_ahead = len(chart.columns) - chart.ahead
    for index, (value, step) in enumerate(zip(chart.columns, steps, strict=True)):
        filled = max(0, min(8, step - 8 * above))
        if filled == 0:
            line.append(_DASH if dashed else " ", style=_LINE_STYLE)
            continue
        bad = chart.over and chart.threshold is not None and value is not None and value > chart.threshold
        style = "bold red" if bad else f"dim {chart.style}" if index >= first_ahead else chart.style
        line.append(_BARS[filled], style=style)
    return line


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


def charts_of(snapshot: Snapshot, window_s: float, width: int) -> list[Chart]:
    """Return the charts of a deployment for blocks of this width, the most important first."""
    return [
        grid_chart(snapshot, width),
        footprint_chart(snapshot, window_s, width),
        latency_chart(snapshot, window_s, width),
        accuracy_chart(snapshot, window_s, width),
        rate_chart(snapshot, window_s, width),
        power_chart(snapshot, window_s, width),
    ]


def grid_chart(snapshot: Snapshot, width: int) -> Chart:
    """Draw the intensity, and what is expected of it; a value per published interval, whatever the window."""
    now = snapshot.intensity
    if now is None:
        return Chart(title="grid", now="not known yet")
    ahead = now.ahead[: width // 3]
    past = now.history[-max(1, width - len(ahead)) :]
    values = [*past, *ahead]
    # Few values are drawn wide, so that the charts end at the same place.
    each = max(1, width // max(1, len(values)))
    return Chart(
        title="grid",
        now=f"{now.g_per_kwh:.0f} g/kWh" + (f", then {clean(now.ahead_what)}" if ahead else ""),
        limit=f"mean {sum(past) / len(past):.0f}" if past else "",
        columns=[value for value in values for _ in range(each)],
        threshold=sum(past) / len(past) if past else None,
        style="cyan",
        ahead=each * len(ahead),
    )


def footprint_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw gCO2e per request against BASE."""
    per = snapshot.per_request
    return Chart(
        title="g/request",
        now=grams(per.measured_g),
        limit=f"BASE {grams(per.base_g)}" if per.base_g is not None else "",
        columns=columns_of(snapshot.slots, window_s, width, lambda slot: slot.footprint_g),
        threshold=per.base_g,
        over=True,
        style="green",
    )


def latency_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the p95 of every few seconds against the SLA; a column is the worst that it covers."""
    service = snapshot.service
    return Chart(
        title="p95",
        now=milliseconds(service.p95_ms, unbounded=service.p95_unbounded),
        limit=f"SLA {service.sla_p95_ms:.0f} ms" if service.sla_p95_ms is not None else "",
        columns=columns_of(
            snapshot.slots, window_s, width, lambda s: math.inf if s.p95_unbounded else s.p95_ms, worst=True
        ),
        threshold=service.sla_p95_ms,
        over=True,
        style="blue",
    )


def accuracy_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the accuracy served against that of the largest variant."""
    service = snapshot.service
    return Chart(
        title="accuracy",
        now=percent(service.accuracy_pct, 2),
        limit=f"largest {percent(service.largest_accuracy_pct, 2)}" if service.largest_accuracy_pct else "",
        columns=columns_of(snapshot.slots, window_s, width, lambda slot: slot.accuracy_pct),
        threshold=service.largest_accuracy_pct,
        from_zero=False,
        style="magenta",
    )


def rate_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the requests that end per second against the planned load."""
    service = snapshot.service
    return Chart(
        title="requests",
        now="-" if service.rate_rps is None else f"{service.rate_rps:.1f}/s",
        limit=f"plan {service.planned_rps:.1f}/s" if service.planned_rps is not None else "",
        columns=columns_of(snapshot.slots, window_s, width, lambda slot: slot.rate_rps),
        threshold=service.planned_rps,
        style="yellow",
    )


def power_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the power of all GPUs."""
    columns = columns_of(snapshot.slots, window_s, width, lambda slot: slot.power_w)
    known = [value for value in columns if value is not None]
    return Chart(
        title="GPU power",
        now=f"{known[-1] / 1e3:.2f} kW" if known else "-",
        columns=columns,
        style="red",
    )
