"""Page 1 of the dashboard: figures, charts where there is room, the map of GPUs, the last decision, what happened."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from cli import dashboard_map as gpu_map
from cli.dashboard_charts import NARROWEST, beside, block, charted
from cli.dashboard_curves import charts_of
from cli.dashboard_figures import figures, override_line
from cli.dashboard_log import event_line
from cli.dashboard_options import ViewOptions
from cli.dashboard_text import age, clean, fit, milliseconds, titled_rule, wrapped
from clover.analysis.view_state import Snapshot

#: Charts take their place only where so many lines are left for everything else.
_ELSE = 15
_GAP = 3
_CHART_HEIGHTS = (12, 10, 8, 6, 5, 4)


def overview(snapshot: Snapshot, options: ViewOptions, order: Sequence[str], width: int, room: int) -> list[Text]:
    """Draw the page."""
    overruled = override_line(snapshot.override, width)
    lines = [*([overruled] if overruled else []), *figures(snapshot, width, options.window_s)]
    gpus = sum(len(node.gpus) for node in snapshot.nodes)
    lines += _charts(snapshot, options, width, room - len(lines) - max(_ELSE, min(gpus, 20) + 6))
    return lines + _story(snapshot, order, width, room - len(lines))


def _charts(snapshot: Snapshot, options: ViewOptions, width: int, room: int) -> list[Text]:
    """Draw charts in up to two rows, as tall as there is room for; none where there is too little."""
    columns = min(3, (width + _GAP) // (NARROWEST + 8 + _GAP))
    if columns < 2:
        return []
    rows = -(-6 // columns)
    height = next((height for height in _CHART_HEIGHTS if rows * height + 1 <= room), None)
    while height is None and rows > 1:
        rows -= 1
        height = next((height for height in _CHART_HEIGHTS if rows * height + 1 <= room), None)
    if height is None:
        return []
    each = (width - _GAP * (columns - 1)) // columns
    drawn = [block(chart, each, height) for chart in charts_of(snapshot, options.window_s, each)]
    lines = [titled_rule(Text(charted(snapshot, options.window_s)), width)]
    for row in range(rows):
        lines += beside(drawn[row * columns : (row + 1) * columns], _GAP)
    return lines


def _story(snapshot: Snapshot, order: Sequence[str], width: int, room: int) -> list[Text]:
    """Share the lines between map, decision and events: the map first, but never all of them."""
    gpus = sum(len(node.gpus) for node in snapshot.nodes)
    map_room = max(1, min(gpus, room - 5))
    lines = [titled_rule(gpu_map.legend(snapshot, order, width - 8), width)]
    lines += gpu_map.rows(snapshot, order, width, map_room)
    left = room - len(lines)
    lines += _decision(snapshot, width, min(left - 2, 3 + max(0, left - 8) // 2))
    left = room - len(lines)
    if left >= 4:
        lines.append(titled_rule(Text("events"), width))
        left -= 1
    return lines + [event_line(event, width) for event in snapshot.events[-left:]] if left > 0 else lines


def _decision(snapshot: Snapshot, width: int, room: int) -> list[Text]:
    """Say what was decided last and why; with more room, what it promises and what it beat."""
    decision = snapshot.decision
    if room < 1:
        return []
    if decision is None:
        return [titled_rule(Text("no decision yet"), width)]
    title = f"decision {decision.number} on {decision.trigger}, {age(decision.age_s)} ago"
    of = f" of {decision.evaluations} evaluated" if decision.evaluations else ""
    beat = f", beat {decision.alternatives}{of}" if decision.alternatives else ""
    lines = [titled_rule(Text(title + beat), width)]
    lines += wrapped(Text(clean(decision.reason)), width, min(2, room - 1))
    expected = (
        f"expects p95 {_p95(decision.p95_ms)}, {decision.accuracy_pct:.2f} %, {decision.energy_j_per_request:.1f} J"
    )
    more = [fit([expected, f"of {clean(decision.wanted)}"], width, gap=" ")]
    more += [
        Text(
            f"beat {clean(other.configuration)}: p95 {_p95(other.p95_ms)}{'' if other.meets_sla else ' (misses SLA)'}, "
            f"{other.accuracy_pct:.2f} %, {other.energy_j_per_request:.1f} J",
            style="dim",
        )
        for other in decision.beaten
    ]
    return (lines + more)[:room]


def _p95(value: float | None) -> str:
    return milliseconds(value, unbounded=value is None)
